"""Planners that prove their answer: exhaustive search, branch and bound, programming."""
