"""A training step of a plan on torch: pipeline, sharding, tensor parallelism, checkpoints."""
