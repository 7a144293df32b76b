"""`parplan.simulate`: one plan, simulated as `parplan simulate` does."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from parplan._checked import value_of
from parplan._files import write_whole
from parplan.errors import ParplanError, short
from parplan.experiments.api.inputs import PathLike, in_python, job, path_of, plan_for
from parplan.experiments.commands.predict.simulate import (
    memory_of,
    memory_verdict,
    stragglers,
    summary,
    verdict_lines,
    with_schedule,
)
from parplan.hardware.network.cluster import Cluster
from parplan.sim.analysis.predicted_timeline import predicted_timeline
from parplan.sim.memory.over_time import MemoryOverTime
from parplan.sim.memory.verdict import Verdict
from parplan.sim.plan import Plan
from parplan.sim.prediction.predict import CompiledPlan, compile_plan, predict
from parplan.sim.run import Run
from parplan.sim.workload import Workload

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


@dataclass(frozen=True, kw_only=True)
class SimulatedStep:
    """A simulated training step; printed, it is the summary of `parplan simulate`."""

    workload: Workload
    cluster: Cluster
    compiled: CompiledPlan
    run: Run
    fragmented_share: float = 0.0
    slow: str = ""
    """What slow ranks change, in one line."""

    @property
    def plan(self) -> Plan:
        """The plan, with the degrees that were completed."""
        return self.compiled.plan

    @property
    def step_s(self) -> float:
        """Seconds of the step."""
        return self.run.step_s

    @property
    def bubble(self) -> float:
        """Share of the step in which ranks idle, mean over the pipeline ranks."""
        return self.run.bubble

    @cached_property
    def memory(self) -> tuple[MemoryOverTime, ...]:
        """The memory of each pipeline rank over the step."""
        return memory_of(self.compiled, self.workload, self.run, self.fragmented_share)

    @property
    def memory_bytes(self) -> tuple[float, ...]:
        """Peak of each pipeline rank, in bytes."""
        return tuple(rank.peak_bytes for rank in self.memory)

    @property
    def peak_memory_bytes(self) -> float:
        """Peak of the fullest rank, in bytes."""
        return max(self.memory_bytes)

    @property
    def fits(self) -> bool:
        """Whether the fullest rank has room in the memory of its accelerator."""
        return self.peak_memory_bytes <= self.cluster.accelerator.memory_bytes

    @property
    def memory_verdict(self) -> Verdict:
        """`fits`, `may fail` or `does not fit`, with what allocator, context and buffers take."""
        return memory_verdict(self.memory, self.cluster)

    def figure(self) -> "Figure":
        """The step as a Gantt chart (matplotlib)."""
        from parplan.experiments.figures.gantt import gantt

        return gantt({"predicted": self.run})

    def timeline(self, path: PathLike) -> Path:
        """Write the step as Chrome trace JSON, which ui.perfetto.dev opens; returns the path."""
        file = path_of("path", path)
        trace = predicted_timeline(self.workload, self.cluster, self.compiled, self.run)
        write_whole(file, (json.dumps(trace, separators=(",", ":")) + "\n").encode())
        return file

    def to_frame(self) -> "pd.DataFrame":
        """The events as a table: rank, stream, name, start_s, end_s."""
        return self.run.as_frame()

    def __str__(self) -> str:
        lines = [summary(self.compiled, self.run, self.memory)]
        lines += verdict_lines(self.memory, self.cluster)
        return "\n".join([*lines, *([self.slow] if self.slow else [])])

    def __repr__(self) -> str:
        what = f"{self.workload.model.name} on {self.cluster.name}"
        return f"<Run: {what}: step {self.step_s:.4g} s, bubble {self.bubble:.1%}>"


@in_python
def simulate(
    workload: Workload,
    cluster: Cluster | PathLike,
    plan: Plan | PathLike,
    *,
    schedule: PathLike | None = None,
    slow: Mapping[int, float] | None = None,
    fragmented_share: float = 0.0,
) -> SimulatedStep:
    """Simulate one training step of `plan`, as `parplan simulate` does.

    `plan`: a plan, whose `data_parallel` and `num_micro_batches` are completed where they are 1, or
    a plan.json. `schedule`: a CSV of instruction lists, a row for each pipeline rank. `slow`: ranks
    of the cluster that compute so many times as long. `fragmented_share`: what the allocator
    wastes, as a share of activations and messages. Raises `ParplanError` for what does not match.
    """
    own_workload, machine = job(workload, cluster)
    slowdown = _slowdown(slow)
    share = float(value_of(float, fragmented_share, "fragmented_share"))
    compiled = compile_plan(own_workload, machine, plan_for(plan, own_workload, machine))
    if schedule is not None:
        compiled = with_schedule(compiled, own_workload, path_of("schedule", schedule))
    run = predict(compiled)
    return SimulatedStep(
        workload=own_workload,
        cluster=machine,
        compiled=compiled,
        run=run,
        fragmented_share=share,
        slow=stragglers(compiled, run, slowdown) if slowdown else "",
    )


def _slowdown(slow: object) -> dict[int, float]:
    if slow is None:
        return {}
    if not isinstance(slow, Mapping):
        raise ParplanError(
            f"slow: expected ranks with factors, as in {{5: 1.5}}, got {short(slow)}"
        )
    return {
        value_of(int, rank, "slow: rank"): value_of(float, factor, f"slow[{rank}]")
        for rank, factor in slow.items()
    }
