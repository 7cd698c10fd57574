"""The folder of a run: what stands in it, its checkpoints, and weights that others released."""
