"""What leaves the house: scoring in bulk."""
