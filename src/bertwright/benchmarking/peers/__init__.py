"""What we are measured against: each module drives one other library, at the best settings that we know of."""
