"""`parplan benchmark --execution`: how close predictions come on this machine, over many plans.

Every kind of plan that two processes can execute runs, and so do the proxy models that predict it,
taking turns, with loops written by hand for two of the plans beside them.
"""

import dataclasses
import statistics
from collections.abc import Iterator

from parplan.backend.execution.result import Execution
from parplan.experiments.accuracy.comparison import compare_set
from parplan.experiments.accuracy.comparison_tables import (
    attribution_table,
    executed_plans_text,
    short_name,
    summary,
)
from parplan.sim.models.model import model_preset
from parplan.sim.plan import Plan, Recomputation, zero_fields
from parplan.sim.software.framework import NO_OVERHEAD
from parplan.sim.workload import Workload

PROCESSES = 2
REPEATS = 12
BUDGET_S = 200.0
GLOBAL_BATCH = 16

PIPELINES = (
    ("gpipe", 1),
    ("1f1b", 1),
    ("interleaved-1f1b", 2),
    ("looped-bfs", 2),
    ("zb-h1", 1),
    ("interleaved-zb", 2),
    ("zb-v", 2),
)
"""(schedule, virtual stages)."""

LEVELS: tuple[Recomputation, ...] = ("none", "full")


def workload(*, small: bool = False) -> Workload:
    """A GPT of eight blocks; small: to see whether it works."""
    model = model_preset("gpt-tiny")
    if small:
        model = dataclasses.replace(
            model, num_layers=4, hidden_size=64, ffn_size=128, vocab_size=256
        )
    return Workload(
        model=model,
        seq_len=16 if small else 64,
        global_batch=GLOBAL_BATCH,
        precision="fp32",
        framework=NO_OVERHEAD,
    )


def plans(*, small: bool = False) -> list[Plan]:
    """All of them, or one of each kind."""
    found = list(_plans())
    return found[::9] if small else found


def _plans() -> Iterator[Plan]:
    for level in LEVELS:
        for stage in range(4):
            yield Plan(
                data_parallel=2,
                batch_per_device=GLOBAL_BATCH // 2,
                recomputation=level,
                **zero_fields(stage),  # type: ignore[arg-type]
            )
        for sequence_parallel in (False, True):
            yield Plan(
                tensor_parallel=2,
                sequence_parallel=sequence_parallel,
                batch_per_device=GLOBAL_BATCH,
                recomputation=level,
            )
        for schedule, chunks in PIPELINES:
            yield _pipeline(schedule, chunks, 4, level)
    yield Plan(data_parallel=2, num_micro_batches=4, batch_per_device=2)
    yield Plan(
        data_parallel=2,
        num_micro_batches=2,
        batch_per_device=4,
        distribute_param=True,
        distribute_gradient=True,
    )
    yield Plan(tensor_parallel=2, num_micro_batches=2, batch_per_device=8)
    yield _pipeline("1f1b", 1, 8, "none")
    yield _pipeline("zb-h1", 1, 8, "none")
    yield _pipeline("gpipe", 1, 2, "selective")


def _pipeline(schedule: str, chunks: int, micro_batches: int, level: Recomputation) -> Plan:
    return Plan(
        num_stages=2,
        num_micro_batches=micro_batches,
        batch_per_device=GLOBAL_BATCH // micro_batches,
        schedule=schedule,
        virtual_stages=chunks,
        recomputation=level,
    )


def report(execution: Execution) -> str:
    """The tables."""
    compared = compare_set(execution.executed)
    return "\n".join(
        [
            executed_plans_text(execution.executed),
            "",
            "the error by where it comes from, in % of the measured step; bubbles",
            attribution_table(execution.executed),
            "",
            summary(compared),
            *overheads(execution),
        ]
    )


def overheads(execution: Execution) -> Iterator[str]:
    """Overhead of the backend over hand-written training loops for the same plan."""
    for written in execution.hand_written:
        plan = execution.executed[written.plan]
        ratios = [
            ours / theirs for ours, theirs in zip(plan.samples_s, written.samples_s, strict=True)
        ]
        theirs_s = statistics.median(written.samples_s)
        yield (
            f"backend over {written.name} by hand ({short_name(plan.plan)}): "
            f"{plan.measured.step_s / theirs_s - 1:+.1%} in the medians, "
            f"{statistics.median(ratios) - 1:+.1%} in the median of the ratios step by step"
        )
