"""Copies of a whole model, each of which computes its rows of every batch."""
