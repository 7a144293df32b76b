# gpt3-175b, 128 x 2048 tokens, on 128xa100 (128 devices): PP 4 x TP 8 x DP 4, 32 micro-batches of 1
# For torchtitan 0.3.0: --module torchtitan_recipe --config parplan
from torchtitan.config import ParallelismConfig
from torchtitan.distributed.activation_checkpoint import FullAC, SelectiveAC
from torchtitan.models.YOUR_MODEL.config_registry import YOUR_BASE as base
from torchtitan.trainer import Trainer


def parplan() -> Trainer.Config:
    config = base()
    config.training.seq_len = 2048
    config.training.local_batch_size = 32
    config.training.global_batch_size = 128
    config.training.dtype = 'float32'
    config.training.mixed_precision_param = 'bfloat16'
    config.training.mixed_precision_reduce = 'float32'
    config.training.enable_cpu_offload = False
    config.parallelism = ParallelismConfig(
        data_parallel_replicate_degree=1,
        data_parallel_shard_degree=4,
        fsdp_reshard_after_forward='never',
        tensor_parallel_degree=8,
        context_parallel_degree=1,
        expert_parallel_degree=1,
        pipeline_parallel_degree=4,
        enable_sequence_parallel=True,
        pipeline_parallel_microbatch_size=1,
        module_fqns_per_model_part=[['tok_embeddings', 'layers.0', 'layers.1', 'layers.2', 'layers.3', 'layers.4', 'layers.5', 'layers.6', 'layers.7', 'layers.8', 'layers.9', 'layers.10', 'layers.11'], ['layers.12', 'layers.13', 'layers.14', 'layers.15', 'layers.16', 'layers.17', 'layers.18', 'layers.19', 'layers.20', 'layers.21', 'layers.22', 'layers.23'], ['layers.24', 'layers.25', 'layers.26', 'layers.27', 'layers.28', 'layers.29', 'layers.30', 'layers.31', 'layers.32', 'layers.33', 'layers.34', 'layers.35'], ['layers.36', 'layers.37', 'layers.38', 'layers.39', 'layers.40', 'layers.41', 'layers.42', 'layers.43', 'layers.44', 'layers.45', 'layers.46', 'layers.47'], ['layers.48', 'layers.49', 'layers.50', 'layers.51', 'layers.52', 'layers.53', 'layers.54', 'layers.55', 'layers.56', 'layers.57', 'layers.58', 'layers.59'], ['layers.60', 'layers.61', 'layers.62', 'layers.63', 'layers.64', 'layers.65', 'layers.66', 'layers.67', 'layers.68', 'layers.69', 'layers.70', 'layers.71'], ['layers.72', 'layers.73', 'layers.74', 'layers.75', 'layers.76', 'layers.77', 'layers.78', 'layers.79', 'layers.80', 'layers.81', 'layers.82', 'layers.83'], ['layers.84', 'layers.85', 'layers.86', 'layers.87', 'layers.88', 'layers.89', 'layers.90', 'layers.91', 'layers.92', 'layers.93', 'layers.94', 'layers.95', 'norm', 'lm_head']],
        pipeline_parallel_schedule='Interleaved1F1B',
    )
    config.activation_checkpoint = SelectiveAC.Config()
    config.compile.enable = True
    config.compile.enable_async_tensor_parallel = False
    return config
