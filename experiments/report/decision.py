"""Sections about the plan of a folder, and about the accuracy of such predictions."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from parplan._files import is_file
from parplan._strict import read_json
from parplan.errors import ParplanError, short
from parplan.experiments.report.page import cards, facts, paragraph
from parplan.experiments.report.tables import Table, table_block
from parplan.hardware.machines.presets import cluster_preset
from parplan.hardware.network.cluster import Cluster
from parplan.planners.explain.plan_words import plan_words
from parplan.sim.analysis.residuals import ANY, family_of, read_residuals, setup_of
from parplan.sim.memory.peak import GB
from parplan.sim.plan import Plan
from parplan.sim.plan_file import read_plan
from parplan.sim.workload import Workload

KINDS = {
    "neither": "plans with neither a pipeline nor ZeRO-3",
    "pipeline": "plans with a pipeline",
}


def decision(folder: Path) -> str:
    """The plan of `plan.json` and what is predicted of it; empty where there is none."""
    path = folder / "plan.json"
    if not is_file(path):
        return ""
    plan, workload, cluster = read_plan(path)
    predicted = _predicted(read_json(path).get("predicted", {}), str(path))
    return cards(_numbers(plan, workload, cluster, predicted)) + facts(
        _words(plan, workload, cluster)
    )


def _predicted(table: object, where: str) -> Mapping[str, Any]:
    """The prediction of a `plan.json`; raises `ParplanError` for numbers that are none."""
    if not isinstance(table, dict):
        raise ParplanError(f"{where}: predicted: expected a table, got {short(table)}")
    past = table.get("past_accuracy", {})
    reported = past.get("reported") if isinstance(past, dict) else past
    memory = table.get("memory_bytes_per_stage", [])
    numbers = {name: table[name] for name in ("step_s", "bubble") if name in table}
    if reported:
        low_high = reported if isinstance(reported, dict) else {}
        numbers |= {name: low_high.get(name) for name in ("low_s", "high_s")}
    if not isinstance(memory, list):
        raise ParplanError(f"{where}: memory_bytes_per_stage: expected a list, got {short(memory)}")
    numbers |= {f"memory_bytes_per_stage[{i}]": value for i, value in enumerate(memory)}
    for name, value in numbers.items():
        least = "above" if name == "step_s" else "at least"
        is_number = type(value) in (int, float) and 0 <= value < 1e18
        if not is_number or (name == "step_s" and value == 0):
            raise ParplanError(
                f"{where}: predicted.{name}: expected a number {least} 0, got {short(value)}"
            )
    return table


def _numbers(
    plan: Plan, workload: Workload, cluster: str, predicted: Mapping[str, Any]
) -> list[tuple[str, str, str]]:
    if "step_s" not in predicted:
        return []
    step_s = float(predicted["step_s"])
    found = [
        ("predicted step", f"{step_s:.4g} s", _interval(predicted)),
        ("tokens/s", f"{workload.tokens / step_s:,.0f}", f"{workload.tokens:,} a step"),
        ("bubble", f"{float(predicted.get('bubble', 0.0)):.1%}", "of the step"),
    ]
    machine = _cluster(cluster)
    memory = [float(value) for value in predicted.get("memory_bytes_per_stage", [])]
    if memory:
        share = "" if machine is None else f"{max(memory) / machine.accelerator.memory_bytes:.0%}"
        of = "of the fullest device" if not share else f"{share} of the fullest device"
        found.append(("peak memory", f"{max(memory) / GB:.1f} GB", of))
    if machine is not None:
        peak = machine.accelerator.peak_flop_per_s.of(workload.product_dtype)
        mfu = workload.model_flops / step_s / plan.num_devices / peak
        found.append(("model FLOPs utilisation", f"{mfu:.1%}", f"of {peak / 1e12:,.0f} TFLOP/s"))
    return found


def _interval(predicted: Mapping[str, Any]) -> str:
    reported = dict(predicted.get("past_accuracy", {})).get("reported")
    if not reported:
        return ""
    return f"80 % of like runs: {reported['low_s']:.3g} to {reported['high_s']:.3g} s"


def _cluster(name: str) -> Cluster | None:
    """None for a machine of the user's own, whose file may have gone."""
    try:
        return cluster_preset(name)
    except ParplanError:
        return None


def _words(plan: Plan, workload: Workload, cluster: str) -> list[tuple[str, str]]:
    model = workload.model
    default = Plan()
    shown = {
        name: value for name, value in plan.to_json().items() if value != getattr(default, name)
    }
    fields = ", ".join(f"{name} {_text(value)}" for name, value in shown.items())
    return [
        ("plan", plan_words(plan)),
        ("fields", f"{fields or 'none'}; the others have their defaults"),
        ("model", f"{model.name}, {model.num_parameters / 1e9:.3g} billion parameters"),
        ("batch", f"{workload.global_batch} sequences of {workload.seq_len} tokens"),
        ("numbers", f"{workload.precision}, {workload.optimizer}, {workload.attention} attention"),
        ("machine", f"{cluster}, {plan.num_devices} accelerators"),
    ]


def _text(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def evidence(folder: Path) -> str:
    """Accuracy of predictions of published runs on similar machines; empty where none is known."""
    path = _plan_of(folder)
    plan, cluster = None, _inputs(folder).get("cluster")
    if path is not None:
        plan, _, planned_for = read_plan(path)
        cluster = cluster or planned_for
    machine = _cluster(cluster) if isinstance(cluster, str) else None
    if machine is None or machine.measured is not None:
        return ""
    family = family_of(machine.accelerator.name)
    rows = [r for r in read_residuals().ratios if r.family in (family, ANY)]
    like = [
        r for r in rows if plan is not None and r.pool == "reported" and r.setup == setup_of(plan)
    ]
    own = next((r for r in like if r.family == family), next(iter(like), None))
    said = ""
    if own is not None:
        kind = KINDS.get(own.setup, f"plans with {own.setup}")
        on = "any accelerators" if own.family == ANY else f"{own.family} accelerators"
        said = paragraph(
            f"For {kind} on {on}: the median of {own.runs} published runs took "
            f"{_off(own.median)} than predicted; 80 % of them took {own.low:.2f} to "
            f"{own.high:.2f} times the predicted time."
        )
    columns = ("runs", "accelerators", "plans", "number", "publications", "10 %", "median", "90 %")
    cells = tuple(
        (
            {"reported": "held out", "calibration": "used for fits"}[r.pool],
            r.family,
            r.setup,
            str(r.runs),
            str(r.sources),
            f"{r.low:.3f}",
            f"{r.median:.3f}",
            f"{r.high:.3f}",
        )
        for r in rows
    )
    title = "Measured over predicted step times of published runs"
    return said + table_block("sim/analysis/residuals.toml", title, Table(columns, cells))


def _off(ratio: float) -> str:
    return f"{abs(ratio - 1):.1%} {'longer' if ratio >= 1 else 'shorter'}"


def _plan_of(folder: Path) -> Path | None:
    """The folder's plan, or the one that its manifest names."""
    named = _inputs(folder).get("plan")
    paths = [folder / "plan.json", *([Path(named)] if isinstance(named, str) else [])]
    return next((path for path in paths if is_file(path)), None)


def _inputs(folder: Path) -> Mapping[str, Any]:
    """Inputs according to the manifest."""
    path = folder / "manifest.json"
    table = read_json(path) if is_file(path) else {}
    inputs = table.get("inputs") if isinstance(table, dict) else None
    return inputs if isinstance(inputs, dict) else {}
