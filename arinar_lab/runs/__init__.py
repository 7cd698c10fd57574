"""The folder of a run: its files, its checkpoints, and conversion of released weights."""
