"""Cutting models at the blocks that their own forward calls, without rewriting it."""
