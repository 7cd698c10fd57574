"""Weights that others released: their names in our models, and the scales that they start from."""
