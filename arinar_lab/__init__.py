"""arinar_lab: ablations of bi-level autoregressive image models (ARINAR, arXiv 2503.02883)."""

__version__ = "0.1.0"
