"""Published weights: their names in our models, and the scales of their initial values."""
