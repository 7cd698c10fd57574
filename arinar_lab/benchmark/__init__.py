"""The speed of every preset, and of the released algorithm."""
