"""A classifier behind HTTP: four dialects that clients already speak, one queue, one thread that computes."""
