"""The base of `based_on_another_file.py`."""

from torchtitan.config import (
    CompileConfig,
    FullAC,
    ParallelismConfig,
    TrainingConfig,
)
from torchtitan.trainer import Trainer

from . import model_registry


def qwen3_8b() -> Trainer.Config:
    return Trainer.Config(
        model_spec=model_registry("8B"),
        training=TrainingConfig(local_batch_size=2, seq_len=16384, steps=100),
        parallelism=ParallelismConfig(tensor_parallel_degree=4),
        activation_checkpoint=FullAC.Config(),
        compile=CompileConfig(enable=True),
    )


def endless() -> Trainer.Config:
    from torchtitan.models.qwen3.config_registry import endless as again

    return again()
