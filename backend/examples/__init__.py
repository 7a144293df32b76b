"""Training scripts as users write them, for benchmarks of the one line."""
