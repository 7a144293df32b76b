"""Plans for torchtitan: a TOML (versions up to 0.2), a Python function (0.3), and the lists."""

import json
from typing import Any

from parplan.errors import ParplanError
from parplan.experiments.interop.exporters.exported import Exported, common_unsaid, layout_line
from parplan.experiments.interop.torchtitan_settings import (
    CSV,
    flavor_of,
    parallelism,
    recomputation,
    training,
    unsaid,
    why_no_lists,
    why_refused,
)
from parplan.hardware.network.cluster import Cluster
from parplan.sim.plan import Plan
from parplan.sim.prediction.predict import scheduled
from parplan.sim.programs.instructions import write_csv
from parplan.sim.schedules import schedule_kind
from parplan.sim.workload import Workload

TOML = "torchtitan.toml"
RECIPE = "torchtitan_recipe.py"

BASES = (
    *("llama3_8b", "llama3_70b", "llama3_405b", "qwen3_0_6b", "qwen3_1_7b", "qwen3_14b"),
    *("qwen3_32b", "qwen3_30b_a3b", "deepseek_v3_16b", "deepseek_v3_671b"),
    *("gpt_oss_20b", "gpt_oss_120b"),
)
"""Functions of the registries of torchtitan 0.3.0."""

AC = {"none": "None", "full": "FullAC.Config()", "selective": "SelectiveAC.Config()"}

OF_MODEL = ("fused_norms", "fused_elementwise")


def to_torchtitan(plan: Plan, workload: Workload, cluster: Cluster) -> Exported:
    """`torchtitan.toml`, `torchtitan_recipe.py` and, of a pipeline, `schedule.csv`.

    Raises `ParplanError` for lists that it cannot run, and for what it refuses.
    """
    if reason := why_no_lists(plan) or why_refused(plan):
        raise ParplanError(reason)
    family, flavor = flavor_of(workload.model)
    lines = [*unsaid(plan, workload), *common_unsaid(plan, workload)]
    if not family:
        lines.append(f"model {workload.model.name}: no flavor of this name or shape; name yours")
    again, again_unsaid = recomputation(plan, workload)
    if not _compiles(plan):
        lines.append(
            "workload.fused_norms, fused_elementwise, fused_loss: torch.compile has no backward in "
            "parts, so that nothing is compiled"
        )
    parts = _compiled(plan, workload)
    unfused = [name for name in OF_MODEL if not getattr(workload, name)]
    if "model" in parts and unfused:
        lines.append(f"workload.{' '.join(unfused)} false: exported with compile, which fuses both")
    if plan.tensor_parallel > 1 and not plan.sequence_parallel:
        lines.append("sequence_parallel false: always on in the TOML form")
    if plan.recomputation == "full" and plan.recomputed_layers is not None:
        lines.append("recomputed_layers: the Python form recomputes all layers")
    if plan.expert_tensor_parallel not in (None, plan.tensor_parallel):
        lines.append("expert_tensor_parallel: no such setting in the Python form")
    head = f"# {layout_line(plan, workload, cluster)}\n"
    files = {
        TOML: head + _toml(plan, workload, family, flavor, again),
        RECIPE: _recipe(plan, workload, family, flavor, head),
    }
    if plan.num_stages > 1:
        files[CSV] = write_csv(scheduled(plan).schedule)
    return Exported(files=files, unsaid=(*lines, *again_unsaid))


def _toml(plan: Plan, workload: Workload, family: str, flavor: str, again: dict[str, str]) -> str:
    sections: dict[str, dict[str, Any]] = {
        "model": {"name": family or "YOUR_MODEL", "flavor": flavor or "YOUR_FLAVOR"},
        "training": training(plan, workload),
        "parallelism": parallelism(plan, workload, toml=True),
        "activation_checkpoint": dict(again),
        "compile": {
            "enable": bool(_compiled(plan, workload)),
            "components": _compiled(plan, workload) or ["model", "loss"],
        },
    }
    return "\n".join(
        f"[{name}]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in table.items())
        for name, table in sections.items()
    )


def _compiles(plan: Plan) -> bool:
    """torch.compile has no backward in parts."""
    return not schedule_kind(plan.schedule).splits_backward


def _compiled(plan: Plan, workload: Workload) -> list[str]:
    """Which of the model and the loss are compiled: those whose kernels are fused."""
    model = any(getattr(workload, name) for name in OF_MODEL)
    parts = [*(["model"] if model else []), *(["loss"] if workload.fused_loss else [])]
    return parts if _compiles(plan) else []


def _recipe(plan: Plan, workload: Workload, family: str, flavor: str, head: str) -> str:
    own = training(plan, workload)
    section = parallelism(plan, workload, toml=False)
    size = flavor.lower().replace("-", "_").replace(".", "_")
    base = f"{family}_{size}"
    if base not in BASES:
        family, base = family or "YOUR_MODEL", "YOUR_BASE"
    again = AC[plan.recomputation]
    parts = _compiled(plan, workload)
    compiled = f"    config.compile.components = {parts!r}\n" if len(parts) == 1 else ""
    changed = "".join(f"    config.training.{name} = {value!r}\n" for name, value in own.items())
    degrees = "".join(f"        {name}={value!r},\n" for name, value in section.items())
    return f"""{head}# For torchtitan 0.3.0: --module torchtitan_recipe --config parplan
from torchtitan.config import ParallelismConfig
from torchtitan.distributed.activation_checkpoint import FullAC, SelectiveAC
from torchtitan.models.{family}.config_registry import {base} as base
from torchtitan.trainer import Trainer


def parplan() -> Trainer.Config:
    config = base()
{changed}    config.parallelism = ParallelismConfig(
{degrees}    )
    config.activation_checkpoint = {again}
    config.compile.enable = {bool(parts)}
{compiled}    config.compile.enable_async_tensor_parallel = {plan.overlap_tensor_parallel}
    return config
"""
