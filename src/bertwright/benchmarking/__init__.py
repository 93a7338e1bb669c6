"""What measures: our own code and other libraries, taking turns on the same texts in one run."""
