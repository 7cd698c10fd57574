"""How fast every preset is, beside the released algorithm."""
