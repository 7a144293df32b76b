# llama3-8b, 64 x 8192 tokens, on 16xh100 (16 devices): PP 1 x TP 1 x DP 16, 2 micro-batches of 2
# For torchtitan 0.3.0: --module torchtitan_recipe --config parplan
from torchtitan.config import ParallelismConfig
from torchtitan.distributed.activation_checkpoint import FullAC, SelectiveAC
from torchtitan.models.llama3.config_registry import llama3_8b as base
from torchtitan.trainer import Trainer


def parplan() -> Trainer.Config:
    config = base()
    config.training.seq_len = 8192
    config.training.local_batch_size = 2
    config.training.global_batch_size = 64
    config.training.dtype = 'float32'
    config.training.mixed_precision_param = 'bfloat16'
    config.training.mixed_precision_reduce = 'float32'
    config.training.enable_cpu_offload = False
    config.parallelism = ParallelismConfig(
        data_parallel_replicate_degree=2,
        data_parallel_shard_degree=8,
        fsdp_reshard_after_forward='always',
        tensor_parallel_degree=1,
        context_parallel_degree=1,
        expert_parallel_degree=1,
        pipeline_parallel_degree=1,
        enable_sequence_parallel=False,
    )
    config.activation_checkpoint = FullAC.Config()
    config.compile.enable = True
    config.compile.enable_async_tensor_parallel = False
    return config
