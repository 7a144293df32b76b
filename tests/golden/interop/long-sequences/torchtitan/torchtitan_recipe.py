# llama3-8b, 8 x 32768 tokens, on 8xh100 (8 devices): PP 1 x TP 2 x DP 2 x CP 2, 4 micro-batches of 1
# For torchtitan 0.3.0: --module torchtitan_recipe --config parplan
from torchtitan.config import ParallelismConfig
from torchtitan.distributed.activation_checkpoint import FullAC, SelectiveAC
from torchtitan.models.llama3.config_registry import llama3_8b as base
from torchtitan.trainer import Trainer


def parplan() -> Trainer.Config:
    config = base()
    config.training.seq_len = 32768
    config.training.local_batch_size = 1
    config.training.global_batch_size = 8
    config.training.dtype = 'float32'
    config.training.mixed_precision_param = 'bfloat16'
    config.training.mixed_precision_reduce = 'float32'
    config.training.enable_cpu_offload = True
    config.parallelism = ParallelismConfig(
        data_parallel_replicate_degree=1,
        data_parallel_shard_degree=2,
        fsdp_reshard_after_forward='never',
        tensor_parallel_degree=2,
        context_parallel_degree=2,
        expert_parallel_degree=1,
        pipeline_parallel_degree=1,
        enable_sequence_parallel=True,
    )
    config.activation_checkpoint = None
    config.compile.enable = True
    config.compile.enable_async_tensor_parallel = True
    return config
