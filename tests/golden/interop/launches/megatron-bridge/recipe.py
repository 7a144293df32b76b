import torch

from megatron.bridge import AutoBridge
from megatron.bridge.recipes.common import _pretrain_common
from megatron.bridge.training.comm_overlap import CommOverlapConfig
from megatron.bridge.training.config import ConfigContainer
from megatron.bridge.training.mixed_precision import get_mixed_precision_config

LONG = 4 * 4096


def _degrees(cfg: ConfigContainer, **degrees: int) -> None:
    cfg.model.tensor_model_parallel_size = degrees["tensor"]
    cfg.model.pipeline_model_parallel_size = degrees.get("pipeline", 1)
    cfg.model.context_parallel_size = degrees.pop("context", 1)


def llama3_70b_pretrain_64gpu_h100_fp8_config() -> ConfigContainer:
    cfg = _pretrain_common()
    name = "meta-llama/Meta-Llama-3-70B"
    cfg.model = AutoBridge.from_hf_pretrained(name, revision="main").get_model_config()
    cfg.tokenizer.tokenizer_model = name
    settings = {"tensor": 4, "pipeline": 4}
    _degrees(cfg, **{**settings, "context": 2})
    cfg.model.virtual_pipeline_model_parallel_size = 5
    cfg.model.pipeline_dtype = torch.bfloat16
    cfg.model.sequence_parallel = cfg.model.tensor_model_parallel_size >= 2
    cfg.model.seq_length = LONG
    cfg.dataset.seq_length = LONG
    cfg.train.global_batch_size = 128
    cfg.train.micro_batch_size = 1
    cfg.model.recompute_granularity = "selective"
    cfg.model.recompute_modules = ["core_attn", "layernorm"]
    cfg.mixed_precision = get_mixed_precision_config("bf16_with_fp8_current_scaling_mixed")
    cfg.mixed_precision.grad_reduce_in_fp32 = False
    cfg.optimizer.use_precision_aware_optimizer = False
    cfg.optimizer.exp_avg_dtype = torch.float32
    cfg.comm_overlap = CommOverlapConfig(tp_comm_overlap=True)
    cfg.ddp.overlap_param_gather = False
    if cfg.model.context_parallel_size > 4:
        cfg.model.cuda_graph_impl = "local"
    cfg.model.cuda_graph_warmup_steps = 3
    print("ready")
    return cfg
