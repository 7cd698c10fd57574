"""Orders of arms: fronts of quality against speed, and rankings at several budgets."""
