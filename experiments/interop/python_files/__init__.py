"""Configurations written in Python, read from their syntax trees."""
