"""Readers of launches of other software: scripts, configurations, hardware files."""
