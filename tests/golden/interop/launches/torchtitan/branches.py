from torchtitan.models.llama3 import model_registry
from torchtitan.trainer import Trainer


def large() -> Trainer.Config:
    config = Trainer.Config(model_spec=model_registry("8B"))
    if os.environ["FULL"]:
        config.activation_checkpoint = None
    config.training.local_batch_size = int(os.environ["MBS"])
    return config
