"""Studies: the plan of arms and seeds, its workers, and what the run folders hold."""
