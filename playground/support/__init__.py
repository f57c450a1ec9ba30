"""What every room may use: atomic files, caches of bytes, logs."""
