from torchtitan.config import CompileConfig, ParallelismConfig, TrainingConfig
from torchtitan.distributed.activation_checkpoint import SelectiveAC
from torchtitan.models.qwen3 import model_registry
from torchtitan.trainer import Trainer


def qwen3_14b() -> Trainer.Config:
    spec = model_registry("14B", attn_backend="varlen")
    return Trainer.Config(
        model_spec=spec,
        optimizer=default_adamw(lr=8e-4),
        training=TrainingConfig(
            num_tokens_per_microbatch_per_dp_rank=4 * 4096,
            num_tokens_per_train_step=32 * 4 * 4096,
            max_context_length=4096,
        ),
        compile=CompileConfig(enable=True, enable_async_tensor_parallel=True),
        parallelism=ParallelismConfig(tensor_parallel_degree=2, data_parallel_replicate_degree=2),
        activation_checkpoint=None if True else SelectiveAC.Config(),
    )
