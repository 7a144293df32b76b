from torchtitan.config import ParallelismConfig, TrainingConfig
from torchtitan.models.kimi_k2_7 import model_registry
from torchtitan.trainer import Trainer


def moonlight() -> Trainer.Config:
    return Trainer.Config(
        model_spec=model_registry("moonlight-16B-A3B"),
        training=TrainingConfig(local_batch_size=2, seq_len=8192),
        parallelism=ParallelismConfig(expert_parallel_degree=8),
    )
