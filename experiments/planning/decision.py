"""The decision of a search: its summary, and the files that explain it.

`parplan plan` and `parplan.plan` say and write the same.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from parplan.experiments.arguments.objective import Chosen
from parplan.experiments.output.folder import OutputFolder
from parplan.experiments.planning.explain import (
    PlanChoice,
    Reasons,
    main_shares,
    past_accuracy,
    reasons_of,
    step_with_interval,
    time_splits,
    write_time_split,
)
from parplan.experiments.planning.files import write_plan
from parplan.experiments.planning.pareto import write_pareto
from parplan.planners.costs.goal import STEP_TIME
from parplan.planners.costs.trial import Trial
from parplan.sim.analysis.evidence import evidence_of
from parplan.sim.analysis.residuals import Residuals, read_residuals
from parplan.sim.analysis.time_split import TimeSplit
from parplan.sim.memory.peak import GB
from parplan.sim.prediction.predict import compile_plan, predict
from parplan.sim.run import Run


@dataclass(frozen=True, kw_only=True)
class Decision:
    """The chosen plan with what explains it, computed when it is asked for."""

    choice: PlanChoice
    chosen: Chosen

    @cached_property
    def run(self) -> Run:
        """The predicted step of the plan."""
        choice = self.choice
        return predict(compile_plan(choice.workload, choice.cluster, choice.best.plan))

    @cached_property
    def residuals(self) -> Residuals:
        """How far off predictions for published runs were."""
        return read_residuals()

    @cached_property
    def splits(self) -> dict[str, TimeSplit]:
        """Where the time goes."""
        return time_splits(self.choice)

    @cached_property
    def reasons(self) -> Reasons:
        """Why the plan and no other."""
        return reasons_of(self.choice, self.residuals)

    def lines(self, *, front: str = "", why: bool = False) -> Iterator[str]:
        """The summary. `front`: a line about the Pareto front; `why`: every single change too."""
        best, cluster = self.choice.best, self.choice.cluster
        yield self._step_line()
        yield from self.chosen.lines(best)
        yield from _by_stage(best)
        if front:
            yield front
        yield f"time of the step: {main_shares(next(iter(self.splits.values())))}"
        if self.chosen.goal is STEP_TIME:
            yield self.reasons.binding
        yield self.reasons.close
        if why:
            yield from self.reasons.details
        if cluster.measured is not None:
            found = evidence_of(self.choice.workload, cluster, best.plan)
            yield f"time of its kernels: {found}"

    def write(self, output: OutputFolder, *, pareto: bool = False) -> str:
        """Write the plan and what explains it; returns the line about the Pareto front, or ""."""
        choice = self.choice
        accuracy = past_accuracy(choice, self.residuals, choice.best.step_s or 0.0)
        write_plan(output, choice.workload, choice.cluster, choice.best, accuracy)
        write_time_split(output, self.splits)
        output.write_csv("why.csv", self.reasons.rows)
        limit = choice.memory_ratio * choice.cluster.accelerator.memory_bytes
        return write_pareto(output, choice.trials, limit) if pareto else ""

    def _step_line(self) -> str:
        choice, run = self.choice, self.run
        workload, cluster = choice.workload, choice.cluster
        peak = max(choice.best.memory_bytes)
        share = peak / cluster.accelerator.memory_bytes
        rate = workload.model_flops / run.step_s / cluster.num_accelerators
        mfu = rate / cluster.accelerator.peak_flop_per_s.of(workload.product_dtype)
        return (
            f"predicted step {step_with_interval(choice, self.residuals, run.step_s)}, "
            f"{workload.tokens / run.step_s:,.0f} "
            f"tokens/s, MFU {mfu:.1%}, bubble {run.bubble:.1%}, "
            f"peak memory {peak / GB:.1f} GB per device ({share:.0%})"
        )


def _by_stage(best: Trial) -> Iterator[str]:
    """What differs from stage to stage."""
    for what, values in (
        ("layers", best.plan.stage_layers),
        ("recomputed layers", best.plan.recomputed_of_stages),
    ):
        if values is not None:
            yield f"{what} of the stages: {' '.join(map(str, values))}"
