"""The mathematics: torch and nothing else of weight. Begin with `arinar.py`."""
