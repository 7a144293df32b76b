"""A configuration that changes one of another file of its package."""

from torchtitan.models.qwen3.config_registry import qwen3_8b
from torchtitan.trainer import Trainer


def long_qwen() -> Trainer.Config:
    config = qwen3_8b()
    config.parallelism.context_parallel_degree = 2
    return config
