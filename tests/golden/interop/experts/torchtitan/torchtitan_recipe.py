# deepseek-v2-lite, 32 x 4096 tokens, on 8xh100 (8 devices): PP 2 x TP 1 x DP 4, 8 micro-batches of 1
# For torchtitan 0.3.0: --module torchtitan_recipe --config parplan
from torchtitan.config import ParallelismConfig
from torchtitan.distributed.activation_checkpoint import FullAC, SelectiveAC
from torchtitan.models.deepseek_v3.config_registry import deepseek_v3_16b as base
from torchtitan.trainer import Trainer


def parplan() -> Trainer.Config:
    config = base()
    config.training.seq_len = 4096
    config.training.local_batch_size = 8
    config.training.global_batch_size = 32
    config.training.dtype = 'float32'
    config.training.mixed_precision_param = 'bfloat16'
    config.training.mixed_precision_reduce = 'float32'
    config.training.enable_cpu_offload = False
    config.parallelism = ParallelismConfig(
        data_parallel_replicate_degree=1,
        data_parallel_shard_degree=4,
        fsdp_reshard_after_forward='never',
        tensor_parallel_degree=1,
        context_parallel_degree=1,
        expert_parallel_degree=4,
        pipeline_parallel_degree=2,
        enable_sequence_parallel=False,
        pipeline_parallel_microbatch_size=1,
        module_fqns_per_model_part=[['tok_embeddings', 'layers.0', 'layers.1', 'layers.2', 'layers.3', 'layers.4', 'layers.5', 'layers.6', 'layers.7', 'layers.8', 'layers.9', 'layers.10', 'layers.11', 'layers.12', 'layers.13'], ['layers.14', 'layers.15', 'layers.16', 'layers.17', 'layers.18', 'layers.19', 'layers.20', 'layers.21', 'layers.22', 'layers.23', 'layers.24', 'layers.25', 'layers.26', 'norm', 'lm_head']],
        pipeline_parallel_schedule='PipelineScheduleMulti',
        pipeline_parallel_schedule_csv='schedule.csv',
    )
    config.activation_checkpoint = None
    config.compile.enable = False
    config.compile.enable_async_tensor_parallel = False
    return config
