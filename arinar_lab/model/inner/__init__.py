"""The inner model over a token's features, and what it is made of."""
