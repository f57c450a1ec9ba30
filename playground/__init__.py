"""Compare quantizations of a vision-language model side by side."""

__version__ = "0.1.0"
