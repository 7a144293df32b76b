"""A configuration whose base calls itself."""

from torchtitan.models.qwen3.config_registry import endless
from torchtitan.trainer import Trainer


def config() -> Trainer.Config:
    return endless()
