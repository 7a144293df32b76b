"""Plans for DeepSpeed: the JSON, and what the program itself has to do.

Names and rules: DeepSpeed 0.19 (deepspeed/runtime/config.py and zero/config.py).
"""

import json
from typing import Any

from parplan.errors import ParplanError
from parplan.experiments.interop.exporters.exported import Exported, common_unsaid
from parplan.hardware.network.cluster import Cluster
from parplan.sim.plan import Plan
from parplan.sim.workload import NARROW, Workload

JSON = "deepspeed.json"


def to_deepspeed(plan: Plan, workload: Workload, cluster: Cluster) -> Exported:
    """`deepspeed.json`. Raises `ParplanError` for ZeRO-2 or -3 in a pipeline, which it refuses."""
    if plan.num_stages > 1 and plan.zero_stage > 1:
        raise ParplanError(
            f"zero_stage {plan.zero_stage}: DeepSpeed has pipelines with ZeRO-0 and ZeRO-1 alone"
        )
    table: dict[str, Any] = {
        "train_batch_size": workload.global_batch,
        "train_micro_batch_size_per_gpu": plan.batch_per_device,
        "gradient_accumulation_steps": plan.num_micro_batches,
        "zero_optimization": _zero(plan),
        **_precision(plan, workload),
    }
    if plan.tensor_parallel > 1:
        table["tensor_parallel"] = {
            "autotp_size": plan.tensor_parallel,
            "tp_overlap_comm": plan.overlap_tensor_parallel,
        }
    lines = [*_in_program(plan), *_otherwise(plan, workload), *common_unsaid(plan, workload)]
    return Exported(files={JSON: json.dumps(table, indent=2) + "\n"}, unsaid=tuple(lines))


def _zero(plan: Plan) -> dict[str, Any]:
    found: dict[str, Any] = {
        "stage": plan.zero_stage,
        "overlap_comm": plan.overlap_gradient_reduction,
    }
    if plan.offload_optimizer:
        found["offload_optimizer"] = {"device": "cpu", "pin_memory": True}
    return found


def _precision(plan: Plan, workload: Workload) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if workload.precision in ("bf16", *NARROW):
        found["bf16"] = {"enabled": True}
    if workload.precision == "fp16":
        found["fp16"] = {"enabled": True}
    if plan.gradient_dtype == "fp32":
        found["communication_data_type"] = "fp32"
        found["data_types"] = {"grad_accum_dtype": "fp32"}
    return found


def _in_program(plan: Plan) -> list[str]:
    """Settings that belong in the program, not in the JSON."""
    lines = []
    if plan.num_stages > 1:
        lines.append(
            f"num_stages {plan.num_stages}: build the model as PipelineModule(num_stages="
            f"{plan.num_stages}); gradient_accumulation_steps are its micro-batches"
        )
        if plan.schedule != "1f1b" or plan.virtual_stages > 1:
            lines.append(
                f"schedule {plan.schedule}, virtual_stages {plan.virtual_stages}: "
                "DeepSpeed runs 1f1b with one stage a rank"
            )
    if plan.stage_layers is not None:
        lines.append("stage_layers: a partition_method of PipelineModule, not in the JSON")
    if plan.recomputation != "none":
        what = "activation_checkpoint_interval=1" if plan.num_stages > 1 else "checkpoint() a block"
        lines.append(f"recomputation {plan.recomputation}: in the program, {what}")
    if plan.recomputation == "selective":
        lines.append(f"recomputed_ops {', '.join(plan.recomputed_ops)}: what the program wraps")
    if plan.recomputed_layers is not None:
        lines.append(f"recomputed_layers {plan.recomputed_layers}: how many the program wraps")
    if plan.recomputed_of_stages is not None:
        lines.append(f"recomputed_of_stages {plan.recomputed_of_stages}: what the program wraps")
    if plan.expert_parallel > 1:
        lines.append(f"expert_parallel {plan.expert_parallel}: the ep_size of deepspeed.moe layers")
    return lines


def _otherwise(plan: Plan, workload: Workload) -> list[str]:
    """Differences between the plan and what DeepSpeed does."""
    lines = []
    if plan.sequence_parallel and plan.tensor_parallel > 1:
        lines.append("sequence_parallel: AutoTP keeps activations whole between its regions")
    if plan.context_parallel > 1:
        lines.append(
            f"context_parallel {plan.context_parallel}: Ulysses (DistributedAttention) splits heads"
        )
    if plan.expert_tensor_parallel is not None:
        lines.append("expert_tensor_parallel: no such setting")
    if plan.shard_group is not None and plan.shard_group != plan.replicas:
        lines.append(
            f"shard_group {plan.shard_group}: optimizer state is sharded over all replicas; "
            "MiCS (mics_shard_size) or zero_hpz_partition_size are the nearest"
        )
    if plan.overlap_parameter_gather and plan.zero_stage in (1, 2):
        lines.append("overlap_parameter_gather: ZeRO-1 and -2 gather after the optimizer's step")
    if plan.gradient_dtype == "as computed" and workload.precision == "bf16":
        lines.append(
            "gradient_dtype as computed: the optimizer for bf16 adds gradients up in fp32, "
            "except in ZeRO-2 and -3"
        )
    if plan.offload_activations:
        lines.append(
            "offload_activations: activation_checkpointing.cpu_checkpointing is the nearest"
        )
    for name, value in (("dropout", workload.dropout), ("lora_rank", workload.lora_rank)):
        if value:
            lines.append(f"workload.{name}: part of the model's program")
    if workload.precision in NARROW:
        lines.append(
            f"workload.precision {workload.precision}: part of the model's program; "
            "exported as bf16"
        )
    lines.append(f"workload.optimizer {workload.optimizer}, seq_len, attention: the program's")
    return lines
