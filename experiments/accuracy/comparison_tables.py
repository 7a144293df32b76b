"""Comparisons of predicted and measured as text and rows."""

from collections.abc import Sequence
from typing import Any

from parplan.backend.execution.result import Executed
from parplan.experiments.accuracy.comparison import CATEGORIES, SetComparison, attribution
from parplan.experiments.output.tables import columns
from parplan.sim.plan import Plan
from parplan.sim.run import Run

MB = 1e6


def short_name(plan: Plan) -> str:
    """`dp2`, `dp2 zero3`, `tp2 sp`, `pp2 1f1b m8`, ... with `+ full` for recomputation."""
    alone = plan.num_stages * plan.tensor_parallel * plan.context_parallel == 1
    parts = [f"dp{plan.data_parallel}"] if plan.data_parallel > 1 or alone else []
    if plan.context_parallel > 1:
        parts.append(f"cp{plan.context_parallel}")
    if plan.zero_stage:
        parts.append(f"zero{plan.zero_stage}")
    if plan.shard_group is not None:
        parts.append(f"in {plan.shard_group}s")
    if plan.tensor_parallel > 1:
        parts += [f"tp{plan.tensor_parallel}", *(["sp"] if plan.sequence_parallel else [])]
    if plan.num_stages > 1:
        parts += [f"pp{plan.num_stages}", plan.schedule]
    if plan.virtual_stages > 1:
        parts.append(f"v{plan.virtual_stages}")
    parts.append(f"m{plan.num_micro_batches}")
    if plan.recomputation != "none":
        parts.append(f"+ {plan.recomputation}")
    return " ".join(parts)


def executed_plans_text(executed: Sequence[Executed]) -> str:
    """Step and memory of every plan."""
    head = ["plan", "predicted", "measured", "error", "spread", "memory", "measured", "error"]
    return columns([head, *(_cells(e) for e in executed)])


def _cells(e: Executed) -> list[str]:
    return [
        short_name(e.plan),
        f"{e.predicted.step_s:7.3f} s",
        f"{e.measured.step_s:6.3f} s",
        f"{e.error:+6.1%}",
        f"{e.spread:5.1%}",
        f"{max(e.predicted_bytes) / MB:6.1f}",
        f"{max(e.measured_bytes) / MB:6.1f} MB" if e.measured_bytes else "",
        "" if e.memory_error is None else f"{e.memory_error:+6.1%}",
    ]


def attribution_table(executed: Sequence[Executed]) -> str:
    """The error of every plan by category, and the bubble."""
    rows = [["plan", "error", *CATEGORIES, "bubble", "measured"]]
    for e in executed:
        parts = attribution(e)
        cells = [f"{parts[name]:+6.1%}" for name in CATEGORIES]
        bubbles = [f"{run.bubble:6.1%}" for run in (e.predicted, e.measured)]
        rows.append([short_name(e.plan), f"{e.error:+6.1%}", *cells, *bubbles])
    return columns(rows)


def summary(found: SetComparison) -> str:
    """Summarise the set in a few lines."""
    return "\n".join(
        [
            f"step time: mean absolute error {found.mean_absolute_error:.1%}, worst "
            f"{found.worst_error:+.1%} ({short_name(found.worst.plan)}); noise {found.noise:.1%}",
            *_order(found),
            _memory_summary(found),
        ]
    )


def _order(found: SetComparison) -> list[str]:
    """Whether the plans are predicted in the measured order; nothing to say of a single one."""
    if found.all_pairs == 0:
        return []
    tau = "unknown" if found.tau is None else f"{found.tau:.2f}"
    return [
        f"order: Kendall's tau {tau} ({found.pairs} of {found.all_pairs} pairs differ by more "
        "than their noise)",
        f"pick: {short_name(found.pick.plan)}, measured {found.regret:.1%} above the fastest "
        f"({short_name(found.best.plan)})",
    ]


def _memory_summary(found: SetComparison) -> str:
    if found.mean_memory_error is None:
        return "peak memory: not measured"
    return (
        f"peak memory: mean absolute error {found.mean_memory_error:.1%}, worst "
        f"{found.worst_memory_error:+.1%}"
    )


def row(e: Executed) -> dict[str, Any]:
    """One plan as a row of a CSV file."""
    return {
        "name": short_name(e.plan),
        **e.plan.to_json(),
        "predicted_s": e.predicted.step_s,
        "measured_s": e.measured.step_s,
        "error": e.error,
        "spread": e.spread,
        "samples_s": " ".join(f"{s:.6f}" for s in e.samples_s),
        "predicted_bubble": e.predicted.bubble,
        "measured_bubble": e.measured.bubble,
        "predicted_bytes": " ".join(f"{b:.0f}" for b in e.predicted_bytes),
        "measured_bytes": " ".join(f"{b:.0f}" for b in e.measured_bytes),
        "memory_error": e.memory_error,
        "loss_difference": e.loss_difference,
        **{f"error from {name}": value for name, value in attribution(e).items()},
    }


def runs(executed: Sequence[Executed]) -> dict[str, Run]:
    """For a timeline: of every plan the predicted step, the measured one, and a profiled one."""
    return {
        f"{run.source} {short_name(e.plan)}": run
        for e in executed
        for run in (e.predicted, e.measured, e.profiled)
    }
