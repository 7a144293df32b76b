"""Compatibility with Advanced Parallelization: its candidates and its log."""
