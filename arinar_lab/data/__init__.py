"""Images, tokens and labels: sources, latent caches, and the order they are read in."""
