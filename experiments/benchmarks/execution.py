"""`parplan benchmark --execution`: how close predictions come on this machine, over many plans.

Every kind of plan that two processes can execute runs, and so do the proxy models that predict it,
taking turns, with loops written by hand for two of the plans beside them.
"""

import dataclasses
import statistics
from collections.abc import Iterator, Sequence

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

TOGETHER = 30

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
    """All of them, or a few."""
    found = list(_plans())
    return found[::17] if small else found


def sittings(of: Sequence[Plan]) -> list[list[Plan]]:
    """The plans in parts of which each runs together, because all of a part are held at once."""
    return [list(of[first : first + TOGETHER]) for first in range(0, len(of), TOGETHER)]


def joined(parts: Sequence[Execution]) -> Execution:
    """One set of all parts; the loops by hand are those of the first one."""
    return dataclasses.replace(
        parts[0],
        calibration=[row for part in parts for row in part.calibration],
        executed=tuple(e for part in parts for e in part.executed),
    )


def _plans() -> Iterator[Plan]:
    for level in LEVELS:
        for stage in range(4):
            yield _replicas(1, level, stage)
        for sequence_parallel in (False, True):
            yield Plan(
                tensor_parallel=2,
                sequence_parallel=sequence_parallel,
                batch_per_device=GLOBAL_BATCH,
                recomputation=level,
            )
        for schedule, chunks in PIPELINES:
            yield _pipeline(schedule, chunks, 4, level)
    yield _replicas(4)
    yield _replicas(2, stage=2)
    yield Plan(tensor_parallel=2, num_micro_batches=2, batch_per_device=8)
    yield _pipeline("1f1b", 1, 8, "none")
    yield _pipeline("zb-h1", 1, 8, "none")
    yield _pipeline("gpipe", 1, 2, "selective")
    yield from _more_plans()


def _more_plans() -> Iterator[Plan]:
    for level in ("none", "selective", "full"):
        yield _context(1, level)
    for micro_batches, stage in ((2, 0), (4, 0), (1, 2), (1, 3)):
        yield _context(micro_batches, stage=stage)
    for micro_batches, known in ((8, ("1f1b", "zb-h1")), (2, ("gpipe", "interleaved-zb", "zb-v"))):
        for schedule, chunks in PIPELINES:
            if schedule not in known:
                yield _pipeline(schedule, chunks, micro_batches, "none")
    for schedule in ("gpipe", "1f1b", "zb-h1"):
        yield _pipeline(schedule, 1, 8, "full")
    for schedule, chunks in PIPELINES[1:3]:
        yield _pipeline(schedule, chunks, 4, "selective")
    yield _replicas(1, "selective")
    yield Plan(tensor_parallel=2, batch_per_device=GLOBAL_BATCH, recomputation="selective")
    for stage in (0, 1, 3):
        yield _replicas(2, stage=stage)
    uneven = _pipeline("1f1b", 1, 4, "none")
    yield dataclasses.replace(uneven, stage_layers=(3, 5))
    yield dataclasses.replace(uneven, recomputation="full", recomputed_layers=2)


def _replicas(micro_batches: int, level: Recomputation = "none", stage: int = 0) -> Plan:
    return Plan(
        data_parallel=2,
        num_micro_batches=micro_batches,
        batch_per_device=GLOBAL_BATCH // 2 // micro_batches,
        recomputation=level,
        **zero_fields(stage),  # type: ignore[arg-type]
    )


def _context(micro_batches: int, level: Recomputation = "none", stage: int = 0) -> Plan:
    return Plan(
        context_parallel=2,
        num_micro_batches=micro_batches,
        batch_per_device=GLOBAL_BATCH // micro_batches,
        recomputation=level,
        **zero_fields(stage),  # type: ignore[arg-type]
    )


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
