"""Numbers of finished runs compared: intervals, tests, fronts, rankings."""
