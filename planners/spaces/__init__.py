"""The plans that a search may choose from, and the constraints of its user."""
