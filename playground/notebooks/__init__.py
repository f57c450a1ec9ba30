"""Cells and runs: their values, their file format, where they are kept, how one is run."""
