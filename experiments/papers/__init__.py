"""Published numbers as data, with their sources (README.md): no code."""
