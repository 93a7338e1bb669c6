"""What compares."""
