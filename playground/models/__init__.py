"""Where files come from. Sees only values and errors."""
