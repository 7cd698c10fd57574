"""Recipes: YAML checked against constructors' signatures, and built."""
