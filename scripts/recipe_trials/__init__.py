"""The parts of scripts/recipes: what is tried, how it is scored, and the table of it."""
