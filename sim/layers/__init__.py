"""Layers of a language model as lists of operations."""
