"""Benchmarks of parplan: simulator, planners, execution."""
