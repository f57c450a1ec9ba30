"""The frozen values that travel between the rooms.

Sizes are in bytes, times in seconds, and the unit is in the name. None means unknown or not measured, never 0.
"""
