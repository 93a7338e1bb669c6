"""Runs, comparisons and sweeps as pages, pictures and tables. Torch is never imported here."""
