"""Studies: the plan of arms and seeds, its workers, its queue, and what the run folders hold."""
