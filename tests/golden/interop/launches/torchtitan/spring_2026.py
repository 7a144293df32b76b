from torchtitan.config import ActivationCheckpointConfig, ParallelismConfig, TrainingConfig
from torchtitan.trainer import Trainer

from . import model_registry

SEQ = 4096


def llama3_70b() -> Trainer.Config:
    return Trainer.Config(
        model_spec=model_registry("70B"),
        optimizer=OptimizersContainer.Config(lr=3e-4),
        training=TrainingConfig(local_batch_size=2 * 4, seq_len=SEQ, steps=10),
        parallelism=ParallelismConfig(tensor_parallel_degree=4),
        activation_checkpoint=ActivationCheckpointConfig(mode="full"),
        model_converters=ModelConvertersContainer.Config(
            converters=[Float8LinearConverter.Config(enable_fsdp_float8_all_gather=True)]
        ),
    )


def llama3_70b_pp() -> Trainer.Config:
    config = llama3_70b()
    config.parallelism.pipeline_parallel_degree = 2
    config.parallelism.pipeline_parallel_schedule = "Interleaved1F1B"
    config.parallelism.pipeline_paralel_microbatch_size = 2
    config.compile.enable = True
    return config
