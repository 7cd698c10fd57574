"""Differences of two arms in bits/dim, image by image."""
