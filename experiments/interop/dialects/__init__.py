"""Readers of further configurations, and all of them by name."""
