"""Plans for Accelerate: a YAML for FSDP2 with `parallelism_config`, and what it leaves out.

Names and rules: Accelerate 1.15 (accelerate/commands/config/config_args.py, utils/launch.py).
"""

from typing import Any

from parplan.errors import ParplanError
from parplan.experiments.interop.exporters.exported import Exported, common_unsaid, layout_line
from parplan.experiments.interop.megatron_settings import as_yaml
from parplan.experiments.interop.torchtitan_settings import sharding
from parplan.hardware.network.cluster import Cluster
from parplan.sim.plan import Plan
from parplan.sim.workload import Workload

YAML = "accelerate.yaml"
NUMBERS = {"fp32": "no", "fp4": "bf16"}
"""`mixed_precision`, where it is not called as here."""


def to_accelerate(plan: Plan, workload: Workload, cluster: Cluster) -> Exported:
    """`accelerate.yaml`. Raises `ParplanError` for a pipeline or experts that are spread."""
    for name in ("num_stages", "expert_parallel"):
        if getattr(plan, name) > 1:
            raise ParplanError(f"{name} {getattr(plan, name)}: Accelerate's FSDP has none")
    if plan.zero_stage == 0 and plan.tensor_parallel * plan.context_parallel > 1:
        raise ParplanError(
            "zero_stage 0: Accelerate has tensor and context parallelism with FSDP alone"
        )
    fsdp = plan.zero_stage > 0 and plan.replicas > 1
    table: dict[str, Any] = {
        "compute_environment": "LOCAL_MACHINE",
        "distributed_type": "FSDP" if fsdp else "MULTI_GPU",
        "mixed_precision": NUMBERS.get(workload.precision, workload.precision),
        "num_machines": cluster.num_nodes,
        "num_processes": plan.num_devices,
        "machine_rank": 0,
        "main_training_function": "main",
        "rdzv_backend": "static",
        "use_cpu": False,
    }
    if fsdp:
        table["fsdp_config"] = _fsdp(plan)
        shard, copies = sharding(plan)
        table["parallelism_config"] = {
            "parallelism_config_dp_replicate_size": copies,
            "parallelism_config_dp_shard_size": shard,
            "parallelism_config_tp_size": plan.tensor_parallel,
            "parallelism_config_cp_size": plan.context_parallel,
        }
    head = f"# {layout_line(plan, workload, cluster)}\n"
    lines = [*_unsaid(plan, workload, fsdp), *common_unsaid(plan, workload)]
    return Exported(files={YAML: head + as_yaml(table)}, unsaid=tuple(lines))


def _fsdp(plan: Plan) -> dict[str, Any]:
    return {
        "fsdp_version": 2,
        "fsdp_auto_wrap_policy": "TRANSFORMER_BASED_WRAP",
        "fsdp_reshard_after_forward": plan.zero_stage == 3,
        "fsdp_activation_checkpointing": plan.recomputation == "full",
        "fsdp_offload_params": plan.offload_optimizer,
        "fsdp_state_dict_type": "SHARDED_STATE_DICT",
        "fsdp_cpu_ram_efficient_loading": True,
        "fsdp_sync_module_states": True,
    }


def _unsaid(plan: Plan, workload: Workload, fsdp: bool) -> list[str]:
    lines = [
        f"batch_per_device {plan.batch_per_device}: the batch_size of your DataLoader",
        f"num_micro_batches {plan.num_micro_batches}: Accelerator(gradient_accumulation_steps="
        f"{plan.num_micro_batches})",
        f"workload.optimizer {workload.optimizer}, seq_len, attention: the program's",
    ]
    if workload.lora_rank:
        lines.append(f"workload.lora_rank {workload.lora_rank}: LoraConfig(r={workload.lora_rank})")
    if not fsdp and plan.recomputation != "none":
        lines.append(f"recomputation {plan.recomputation}: gradient_checkpointing of the model")
    if plan.recomputation == "selective":
        lines.append(
            f"recomputed_ops {', '.join(plan.recomputed_ops)}: whole blocks or none; "
            "exported as none"
        )
    if plan.recomputed_layers is not None:
        lines.append(f"recomputed_layers {plan.recomputed_layers}: all blocks or none")
    if plan.recomputed_of_stages is not None:
        lines.append(f"recomputed_of_stages {plan.recomputed_of_stages}: all blocks or none")
    if workload.precision == "fp4":
        lines.append("workload.precision fp4: no such setting; exported as bf16")
    if plan.zero_stage == 1 and fsdp:
        lines.append("distribute_param (ZeRO-1): exported as ZeRO-2, gradients are sharded as well")
    if fsdp and plan.zero_stage in (1, 2):
        lines.append(
            "overlap_parameter_gather: parameters are gathered block by block in the forward"
        )
    if not plan.overlap_gradient_reduction:
        lines.append("overlap_gradient_reduction false: reductions run beside the backward")
    if plan.sequence_parallel and plan.tensor_parallel > 1:
        lines.append("sequence_parallel: what the model's tensor-parallel plan says")
    if plan.overlap_tensor_parallel:
        lines.append("overlap_tensor_parallel: no such setting")
    if fsdp:
        lines.append(
            f"gradient_dtype {plan.gradient_dtype}: the reduce_dtype of a MixedPrecisionPolicy"
        )
    if plan.offload_optimizer:
        lines.append("offload_optimizer: fsdp_offload_params moves parameters and gradients too")
    if plan.offload_activations:
        lines.append("offload_activations: no such setting")
    return lines
