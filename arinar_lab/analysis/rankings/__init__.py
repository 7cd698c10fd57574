"""Orders of arms: fronts of quality against speed, and rankings in several regimes."""
