from torchtitan.trainer import Trainer

from . import model_registry


def other_8b() -> Trainer.Config:
    return Trainer.Config(model_spec=model_registry("8B"))
