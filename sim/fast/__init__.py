"""Evaluators that equal the engine to the picosecond, for many candidates at once."""
