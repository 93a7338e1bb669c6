"""What leaves the house: classifiers that answer requests, score files of any size, or go elsewhere."""
