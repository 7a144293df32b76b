"""An exported plan as its target will run it: imported again and predicted."""

import json
from dataclasses import dataclass, fields, replace

from parplan.experiments.interop.exporters.exported import Exported
from parplan.experiments.interop.importers.imported import Given, finished
from parplan.experiments.interop.reading.sources import SOURCES
from parplan.hardware.network.cluster import Cluster
from parplan.sim.memory.peak import GB
from parplan.sim.plan import Plan
from parplan.sim.prediction.predict import compile_plan, predict
from parplan.sim.software.presets import WORKLOAD_SWITCHES
from parplan.sim.workload import Workload

_RECOMPUTED = ("recomputation", "recomputed_ops", "recomputed_layers", "recomputed_of_stages")

OF_PROGRAM: dict[str, tuple[str, ...]] = {
    "deepspeed": (
        *_RECOMPUTED,
        *("num_stages", "virtual_stages", "schedule", "stage_layers", "context_parallel"),
        *("expert_parallel", "expert_tensor_parallel", "shard_group"),
    ),
    "accelerate": ("gradient_dtype",),
    "transformers": ("shard_group",),
}
"""Fields that a target's file does not hold and its program sets: taken as planned."""

SOURCE_OF = {"nemo": "megatron-bridge"}


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadBack:
    """The plan that a target's file means, beside the one that was exported."""

    to: str
    plan: Plan
    workload: Workload
    planned_s: float
    step_s: float
    planned_bytes: float
    """The fullest rank's peak."""
    peak_bytes: float
    differing: tuple[str, ...]
    """`field: before -> after`, of the plan and of the workload."""

    def __str__(self) -> str:
        change = self.step_s / self.planned_s - 1
        head = f"read back for {self.to}: predicted {self.step_s:.3f} s, "
        if abs(change) < 5e-4 and not self.differing:
            return f"{head}as planned"
        said = "as planned" if abs(change) < 5e-4 else f"planned {self.planned_s:.3f} s"
        more = "" if abs(change) < 5e-4 else f" ({change:+.1%})"
        peak = ""
        if abs(self.peak_bytes / self.planned_bytes - 1) >= 5e-3:
            peak = f"; peak memory {self.peak_bytes / GB:.1f} GB, not {self.planned_bytes / GB:.1f}"
        differing = f"; differs: {'; '.join(self.differing)}" if self.differing else ""
        return f"{head}{said}{more}{peak}{differing}"


def read_back(
    exported: Exported, to: str, plan: Plan, workload: Workload, cluster: Cluster, where: str
) -> ReadBack:
    """Import the first file of `exported` and predict what it means.

    `where`: the path that it was written to, beside which its other files lie. Raises
    `ParplanError` where the file cannot be read, which no exported file should come to.
    """
    found, meant = meaning_of(exported, to, plan, workload, cluster, where)
    planned, back = compile_plan(workload, cluster, plan), compile_plan(meant, cluster, found)
    return ReadBack(
        to=to,
        plan=found,
        workload=meant,
        planned_s=predict(planned).step_s,
        step_s=predict(back).step_s,
        planned_bytes=max(rank.total_bytes for rank in planned.memory),
        peak_bytes=max(rank.total_bytes for rank in back.memory),
        differing=tuple(differing(plan, found, workload, meant)),
    )


def meaning_of(
    exported: Exported, to: str, plan: Plan, workload: Workload, cluster: Cluster, where: str
) -> tuple[Plan, Workload]:
    """The plan and the workload that the first file of `exported` means, read from `where`.

    What the target's file does not hold is as planned. Raises `ParplanError` as `read_back` does.
    """
    text = next(iter(exported.files.values()))
    given = Given(
        devices=cluster.num_accelerators,
        model=workload.model,
        seq_len=workload.seq_len,
        global_batch=workload.global_batch,
        micro_batch=plan.batch_per_device if to in ("accelerate", "deepspeed") else None,
    )
    settings = SOURCES[SOURCE_OF.get(to, to)](text, where, given)
    own = plan.to_json()
    changed = {name: json.dumps(own[name]) for name in OF_PROGRAM.get(to, ())}
    settings.copies = 1 if "shard_group" in changed else settings.copies
    for name in changed:
        settings.plan.pop(name, None)
    program = {name: getattr(workload, name) for name in (*WORKLOAD_SWITCHES, "software")}
    found, read = finished(settings, given, changed, where, program)
    meant = replace(read, framework=workload.framework, expert_load=workload.expert_load)
    return found, meant


def differing(plan: Plan, found: Plan, workload: Workload, meant: Workload) -> list[str]:
    """The fields that two plans and workloads do not share: `field: before -> after`."""
    lines = []
    layers = workload.model.num_layers
    for field in fields(Plan):
        before, after = getattr(plan, field.name), getattr(found, field.name)
        if field.name == "stage_layers":
            before, after = plan.layers_of_stages(layers), found.layers_of_stages(layers)
        if field.name == "shard_group":
            before, after = plan.sharded_over, found.sharded_over
        if field.name == "expert_tensor_parallel":
            before, after = (p.expert_tensor_parallel or p.tensor_parallel for p in (plan, found))
        unused = plan.recomputation != "selective" and found.recomputation != "selective"
        if before != after and not (field.name == "recomputed_ops" and unused):
            lines.append(f"{field.name}: {_shown(before)} -> {_shown(after)}")
    for field in fields(Workload):
        before, after = getattr(workload, field.name), getattr(meant, field.name)
        if field.name not in ("framework", "model", "software") and before != after:
            lines.append(f"workload.{field.name}: {_shown(before)} -> {_shown(after)}")
    if workload.software != meant.software:
        names = [
            f.name
            for f in fields(type(workload.software))
            if getattr(workload.software, f.name) != getattr(meant.software, f.name)
        ]
        lines.append(f"workload.software: {', '.join(names)}")
    return lines


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple | list):
        between = ", " if any(isinstance(item, str) for item in value) else " "
        return between.join(map(str, value)) if len(value) <= 16 else f"{len(value)} values"
    return str(value)
