"""Studies: many measurements from one file. It is planned, run, resumed, and written as one report."""
