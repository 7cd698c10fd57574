"""Weights that others released: their files, their names, their initialisation."""
