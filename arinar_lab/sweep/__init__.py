"""Searches of a space by Optuna."""
