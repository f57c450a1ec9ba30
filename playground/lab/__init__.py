"""What is done with a pool: comparisons, their numbers, and where they are kept."""
