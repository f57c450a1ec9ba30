"""Benchmarks: `make bench`, or `python -m bench engine | page`. What is measured and how: bench/README.md."""
