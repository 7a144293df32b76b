from torchtitan.trainer import Trainer


def small() -> Trainer.Config:
    return Trainer.Config()


def large() -> Trainer.Config:
    return Trainer.Config()
