"""Two machines on Ray."""
