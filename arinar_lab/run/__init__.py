"""One experiment: its configuration, data, training, evaluation and record."""
