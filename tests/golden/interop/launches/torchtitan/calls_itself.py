from torchtitan.trainer import Trainer


def large() -> Trainer.Config:
    import os
    os.system("touch executed")
    return large()
