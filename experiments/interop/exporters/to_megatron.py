"""Plans for Megatron-LM (a launch script) and Megatron-Bridge (a YAML of overrides).

Names and rules: Megatron-LM, megatron/training/arguments.py, and Megatron-Bridge,
src/megatron/bridge/training/config.py, both of August 2026.
"""

from parplan.experiments.interop.exporters.exported import (
    Exported,
    common_unsaid,
    layout_line,
    per_node,
)
from parplan.experiments.interop.megatron_model import model_settings
from parplan.experiments.interop.megatron_plan import plan_settings
from parplan.experiments.interop.megatron_settings import (
    MegatronSetting,
    as_arguments,
    as_tables,
    as_yaml,
)
from parplan.hardware.network.cluster import Cluster
from parplan.sim.plan import Plan
from parplan.sim.workload import Workload

SCRIPT = "megatron.sh"
OVERRIDES = "megatron_bridge.yaml"


def to_megatron(plan: Plan, workload: Workload, cluster: Cluster) -> Exported:
    """`megatron.sh`: torchrun with the arguments of pretrain_gpt.py."""
    settings, unsaid = _settings(plan, workload)
    groups = "\n".join(f"  {word}" for word in as_arguments(settings))
    text = f"""#!/bin/bash
# {layout_line(plan, workload, cluster)}
# Data, learning rate and checkpoints are yours: give them as further arguments.
set -euo pipefail
{_environment(plan)}ARGS=(
{groups}
)
torchrun ${{TORCHRUN_ARGS:---nnodes {cluster.num_nodes} --nproc-per-node {per_node(cluster)}}} \\
  pretrain_gpt.py "${{ARGS[@]}}" "$@"
"""
    if workload.lora_rank:
        unsaid.append(f"workload.lora_rank {workload.lora_rank}: all weights are trained")
    return Exported(files={SCRIPT: text}, unsaid=tuple(unsaid))


def _environment(plan: Plan) -> str:
    """Without Megatron-FSDP, exchanges within layers need a single queue, before Blackwell."""
    if plan.zero_stage < 2 and plan.tensor_parallel * plan.context_parallel > 1:
        return "export CUDA_DEVICE_MAX_CONNECTIONS=1\n"
    return ""


def to_megatron_bridge(plan: Plan, workload: Workload, cluster: Cluster) -> Exported:
    """`megatron_bridge.yaml`: overrides for the ConfigContainer of a recipe."""
    settings, unsaid = _settings(plan, workload)
    head = (
        f"# {layout_line(plan, workload, cluster)}\n"
        f"# Start with torchrun --nnodes {cluster.num_nodes} --nproc-per-node "
        f"{per_node(cluster)}, and merge this into the recipe of the model.\n"
    )
    tables = as_tables(settings)
    # In fp32 the recipe's mixed precision has to go.
    mixed = tables.setdefault("mixed_precision", None)
    usual = "as computed" if str(mixed).startswith("fp16") else "fp32"
    if isinstance(mixed, str) and plan.gradient_dtype != usual:
        unsaid.append(
            f"gradient_dtype {plan.gradient_dtype}: {mixed} reduces gradients otherwise; set "
            f"cfg.mixed_precision.grad_reduce_in_fp32 = {plan.gradient_dtype == 'fp32'} in the "
            "recipe"
        )
    if workload.lora_rank:
        unsaid.append(
            f"workload.lora_rank {workload.lora_rank}: set peft to LoRA(dim={workload.lora_rank}) "
            "in the recipe"
        )
    return Exported(files={OVERRIDES: head + as_yaml(tables)}, unsaid=tuple(unsaid))


def _settings(plan: Plan, workload: Workload) -> tuple[list[MegatronSetting], list[str]]:
    own, own_unsaid = plan_settings(plan, workload)
    model, model_unsaid = model_settings(workload)
    if plan.zero_stage > 1 or not workload.software.fused_gradient_accumulation:
        flag, name = "--no-gradient-accumulation-fusion", "gradient_accumulation_fusion"
        own.append(MegatronSetting(flag, f"model.{name}", True, False))
    return [*own, *model], [*own_unsaid, *model_unsaid, *common_unsaid(plan, workload)]
