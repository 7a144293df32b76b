"""A plan as the sections of torchtitan's configuration, and what they leave out.

Names and rules: torchtitan 0.2.2 (torchtitan/config/job_config.py, read from TOML) and 0.3.0
(torchtitan/config/configs.py, set in Python).
"""

from dataclasses import replace
from typing import Any

from parplan.sim.models.model import Model, model_preset
from parplan.sim.plan import Plan
from parplan.sim.schedules import schedule_kind
from parplan.sim.workload import NARROW, Workload

CSV = "schedule.csv"

SCHEDULES = {
    "gpipe": "GPipe",
    "1f1b": "1F1B",
    "interleaved-1f1b": "Interleaved1F1B",
    "looped-bfs": "LoopedBFS",
    "interleaved-zb": "InterleavedZeroBubble",
    "zb-v": "ZBVZeroBubble",
    "dualpipe-v": "DualPipeV",
}
"""What torch.distributed.pipelining calls them; the others are run from their lists."""

FLAVORS = {
    "llama3-8b": ("llama3", "8B"),
    "llama3.1-8b": ("llama3", "8B"),
    "llama3-70b": ("llama3", "70B"),
    "llama3.1-70b": ("llama3", "70B"),
    "llama3-405b": ("llama3", "405B"),
    "llama3.1-405b": ("llama3", "405B"),
    "qwen3-0.6b": ("qwen3", "0.6B"),
    "qwen3-1.7b": ("qwen3", "1.7B"),
    "qwen3-4b": ("qwen3", "4B"),
    "qwen3-8b": ("qwen3", "8B"),
    "qwen3-14b": ("qwen3", "14B"),
    "qwen3-32b": ("qwen3", "32B"),
    "qwen3-30b-a3b": ("qwen3", "30B-A3B"),
    "qwen3-235b-a22b": ("qwen3", "235B-A22B"),
    "deepseek-v2-lite": ("deepseek_v3", "16B"),
    "deepseek-v2": ("deepseek_v3", "236B"),
    "deepseek-v3": ("deepseek_v3", "671B"),
    "llama4-scout": ("llama4", "17bx16e"),
    "llama4-maverick": ("llama4", "17bx128e"),
    "moonlight-16b-a3b": ("kimi_k2_7", "moonlight-16B-A3B"),
    "gpt-oss-20b": ("gpt_oss", "20b"),
    "gpt-oss-120b": ("gpt_oss", "120b"),
}
"""Presets by name, and what torchtitan calls their family and size."""

OLD_FLAVORS = {
    "llama-7b": ("llama2", "7B"),
    "llama-13b": ("llama2", "13B"),
    "llama2-70b": ("llama2", "70B"),
}
"""Those of 2024, which are read but not written."""


def flavor_of(model: Model) -> tuple[str, str]:
    """Family and size of a model by its name, else by its shape; both empty where it has none."""
    if model.name in FLAVORS:
        return FLAVORS[model.name]
    shape = replace(model, name="", source="", head_dim=model.head_size)
    for name, flavor in FLAVORS.items():
        preset = model_preset(name)
        if replace(preset, name="", source="", head_dim=preset.head_size) == shape:
            return flavor
    return "", ""


MULTI = "PipelineScheduleMulti"


def parallelism(plan: Plan, workload: Workload, *, toml: bool) -> dict[str, Any]:
    """The section `parallelism`, of the TOML or of the Python form."""
    shard, replicate = sharding(plan)
    found: dict[str, Any] = {
        "data_parallel_replicate_degree": replicate,
        "data_parallel_shard_degree": shard,
        "fsdp_reshard_after_forward": "always" if plan.zero_stage == 3 else "never",
        "tensor_parallel_degree": plan.tensor_parallel,
        "context_parallel_degree": plan.context_parallel,
        "expert_parallel_degree": plan.expert_parallel,
        "pipeline_parallel_degree": plan.num_stages,
    }
    if toml:
        found["enable_async_tensor_parallel"] = plan.overlap_tensor_parallel
        if plan.expert_parallel > 1:
            own = plan.expert_tensor_parallel or plan.tensor_parallel
            found["expert_tensor_parallel_degree"] = own
    else:
        found["enable_sequence_parallel"] = plan.sequence_parallel
    if plan.num_stages > 1:
        found |= _pipeline(plan, workload, head="output" if toml else "lm_head")
    return found


def _pipeline(plan: Plan, workload: Workload, head: str) -> dict[str, Any]:
    found: dict[str, Any] = {
        "pipeline_parallel_microbatch_size": plan.batch_per_device,
        "module_fqns_per_model_part": model_parts(plan, workload.model.num_layers, head),
        "pipeline_parallel_schedule": SCHEDULES.get(plan.schedule) or _placed(plan),
    }
    if plan.schedule not in SCHEDULES:
        found["pipeline_parallel_schedule_csv"] = CSV
    return found


def _placed(plan: Plan) -> str:
    """A schedule with a name that lays the stages of a rank as `plan`'s does."""
    return "ZBVZeroBubble" if schedule_kind(plan.schedule).placement == "v" else MULTI


def why_no_lists(plan: Plan) -> str:
    """The reason why torchtitan cannot run the lists of `plan`, in one line; empty if it can."""
    kind = schedule_kind(plan.schedule)
    if plan.num_stages == 1 or plan.schedule in SCHEDULES:
        return ""
    if not kind.one_copy:
        return f"schedule {plan.schedule}: each stage is on two ranks, which torchtitan has not"
    if kind.placement == "v" and plan.virtual_stages != 2:
        return (
            f"schedule {plan.schedule}, virtual_stages {plan.virtual_stages}: torchtitan lays "
            "two stages of a rank in a V, no other number"
        )
    return ""


def why_refused(plan: Plan) -> str:
    """Why torch.distributed.pipelining (torch 2.13) refuses a named schedule; empty if it runs."""
    stages, count = plan.num_stages, plan.num_micro_batches
    if stages == 1 or plan.schedule not in SCHEDULES:
        return ""
    if plan.schedule == "1f1b" and count < stages:
        return f"num_micro_batches {count}: torch's 1F1B needs at least {stages}, the stages"
    if plan.schedule == "dualpipe-v" and count < 2 * stages:
        return f"num_micro_batches {count}: torch's DualPipeV needs at least {2 * stages}"
    rounds = max(1, count // stages)
    if plan.schedule in ("interleaved-1f1b", "interleaved-zb") and count % rounds:
        return (
            f"num_micro_batches {count}: torch's {SCHEDULES[plan.schedule]} needs a multiple of "
            f"{rounds}, its rounds"
        )
    return ""


def model_parts(plan: Plan, num_layers: int, head: str) -> list[list[str]]:
    """The modules of every stage by their names."""
    parts: list[list[str]] = []
    layer = 0
    for count in plan.layers_of_stages(num_layers):
        parts.append([f"layers.{i}" for i in range(layer, layer + count)])
        layer += count
    parts[0].insert(0, "tok_embeddings")
    parts[-1] += ["norm", head]
    return parts


def sharding(plan: Plan) -> tuple[int, int]:
    """(ranks that FSDP shards over, copies of that). Context-parallel ranks shard as well."""
    if plan.zero_stage == 0:
        return 1, plan.data_parallel
    copies = plan.replicas // plan.sharded_over
    return max(1, plan.data_parallel // copies), copies


def training(plan: Plan, workload: Workload) -> dict[str, Any]:
    """The section `training`: batches of one data-parallel rank, and of all of them."""
    of_pipeline = plan.num_micro_batches if plan.num_stages > 1 else 1
    return {
        "seq_len": workload.seq_len,
        "local_batch_size": plan.batch_per_device * of_pipeline,
        "global_batch_size": workload.global_batch,
        "dtype": "float32",
        "mixed_precision_param": "float32" if workload.precision == "fp32" else "bfloat16",
        "mixed_precision_reduce": "float32",
        "enable_cpu_offload": plan.offload_optimizer,
    }


def recomputation(plan: Plan, workload: Workload) -> tuple[dict[str, str], list[str]]:
    """The section `activation_checkpoint` of the TOML, and what it does otherwise."""
    if plan.recomputation == "none":
        return {"mode": "none"}, []
    if plan.recomputation == "selective":
        lines = [
            f"recomputed_ops {', '.join(plan.recomputed_ops)}: option op keeps attention and every "
            "other product, and recomputes the rest"
        ]
        lines += [
            f"{name} {getattr(plan, name)}: option op is for all layers"
            for name in ("recomputed_layers", "recomputed_of_stages")
            if getattr(plan, name) is not None
        ]
        return {"mode": "selective", "selective_ac_option": "op"}, lines
    if plan.recomputed_of_stages is not None:
        return {"mode": "full"}, [
            f"recomputed_of_stages {plan.recomputed_of_stages}: all stages recompute alike; "
            "exported as all layers"
        ]
    if plan.recomputed_layers is None:
        return {"mode": "full"}, []
    own = workload.model.num_layers / plan.total_stages
    if plan.recomputed_layers and own % plan.recomputed_layers == 0:
        every = int(own // plan.recomputed_layers)
        return {"mode": "selective", "selective_ac_option": str(every)}, []
    return {"mode": "full"}, [
        f"recomputed_layers {plan.recomputed_layers}: only all layers, or every n-th, can be "
        "recomputed; exported as all"
    ]


def unsaid(plan: Plan, workload: Workload) -> list[str]:
    """Plan fields that both forms leave out."""
    shared = [*_sharding_unsaid(plan), *_offload_unsaid(plan)]
    if plan.num_stages > 1 and plan.schedule not in SCHEDULES:
        shared.append(
            f"schedule {plan.schedule}: has no name; {CSV} is run by _PipelineScheduleRuntime"
        )
    if workload.precision == "fp16":
        shared.append("workload.precision fp16: mixed precision is bfloat16")
    if workload.precision in NARROW:
        shared.append(f"workload.precision {workload.precision}: add its converter to the model")
    if workload.optimizer != "adamw":
        shared.append(f"workload.optimizer {workload.optimizer}: there are Adam and AdamW")
    for name, value in (("dropout", workload.dropout), ("lora_rank", workload.lora_rank)):
        if value:
            shared.append(f"workload.{name}: no such setting")
    if workload.attention in ("unfused", "eager"):
        shared.append(f"workload.attention {workload.attention}: attention is a fused kernel")
    return shared


def _sharding_unsaid(plan: Plan) -> list[str]:
    lines = []
    if plan.zero_stage == 1:
        lines.append("distribute_param (ZeRO-1): exported as ZeRO-2, gradients are sharded as well")
    if plan.zero_stage == 0 and plan.context_parallel > 1:
        lines.append(
            "distribute_param, distribute_gradient, shard_group: context-parallel ranks always "
            "shard together, as in ZeRO-2"
        )
    if plan.replicas > 1 and not plan.overlap_gradient_reduction:
        lines.append("overlap_gradient_reduction false: gradients are reduced beside the backward")
    if plan.zero_stage in (1, 2) or (plan.zero_stage == 0 and plan.context_parallel > 1):
        lines.append(
            "overlap_parameter_gather: parameters are gathered block by block in the forward"
        )
    if plan.replicas > 1 and plan.gradient_dtype == "as computed":
        lines.append("gradient_dtype as computed: gradients are reduced in fp32")
    if plan.shard_group is not None and plan.shard_group < plan.context_parallel:
        lines.append(
            f"shard_group {plan.shard_group}: context-parallel ranks shard together, "
            f"at least {plan.context_parallel}"
        )
    return lines


def _offload_unsaid(plan: Plan) -> list[str]:
    lines = []
    if plan.offload_optimizer:
        lines.append("offload_optimizer: enable_cpu_offload moves parameters and gradients too")
    if plan.offload_activations:
        lines.append("offload_activations: no such setting")
    return lines
