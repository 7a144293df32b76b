from torchtitan.models.qwen3_5 import model_registry
from torchtitan.trainer import Trainer


def qwen35_4b() -> Trainer.Config:
    return Trainer.Config(model_spec=model_registry("4B"))
