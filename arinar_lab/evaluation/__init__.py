"""Evaluation of one trained run: metrics, diagnostics, conditional densities, uncertainty."""
