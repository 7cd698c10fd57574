"""Many experiments: the plan, the workers, the statistics and the report."""
