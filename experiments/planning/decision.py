"""The decision of a search: its summary, and the files that explain it.

`parplan plan` and `parplan.plan` say and write the same.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from parplan.experiments.arguments.objective import Chosen
from parplan.experiments.output.folder import OutputFolder
from parplan.experiments.planning.ap.both_stacks import BothStacks
from parplan.experiments.planning.explain import (
    PlanChoice,
    Reasons,
    past_accuracy,
    reasons_of,
    time_splits,
    write_time_split,
)
from parplan.experiments.planning.files import write_plan
from parplan.experiments.planning.pareto import write_pareto
from parplan.planners.search.report import Report
from parplan.sim.analysis.evidence import evidence_of
from parplan.sim.analysis.residuals import Residuals, read_residuals
from parplan.sim.analysis.time_split import TimeSplit
from parplan.sim.prediction.predict import compile_plan, predict
from parplan.sim.run import Run


@dataclass(frozen=True, kw_only=True)
class Decision:
    """The chosen plan with what explains it, computed when it is asked for."""

    choice: PlanChoice
    chosen: Chosen
    report: Report
    """What the search did."""
    num_candidates: int
    """Plans of the space that was searched."""
    both: BothStacks | None = None
    """What two software stacks say of AP's candidates."""

    @cached_property
    def run(self) -> Run:
        """The predicted step of the plan."""
        choice = self.choice
        return predict(compile_plan(choice.workload, choice.cluster, choice.best.plan))

    @cached_property
    def residuals(self) -> Residuals:
        """Errors of predictions for published runs."""
        return read_residuals()

    @cached_property
    def splits(self) -> dict[str, TimeSplit]:
        """The time splits of the plan."""
        return time_splits(self.choice)

    @cached_property
    def reasons(self) -> Reasons:
        """The reasons for the plan."""
        return reasons_of(self.choice, self.residuals)

    def details(self) -> Iterator[str]:
        """What every single change costs, and what the times of the plan's kernels rest on."""
        yield from self.reasons.details
        cluster = self.choice.cluster
        if cluster.measured is not None:
            found = evidence_of(self.choice.workload, cluster, self.choice.best.plan)
            yield f"  time of its kernels: {found}"

    def write(self, output: OutputFolder, *, pareto: bool = False) -> str:
        """Write the plan and what explains it; returns the line about the Pareto front, or ""."""
        choice = self.choice
        accuracy = past_accuracy(choice, self.residuals, choice.best.step_s or 0.0)
        write_plan(output, choice.workload, choice.cluster, choice.best, accuracy)
        write_time_split(output, self.splits)
        output.write_csv("why.csv", self.reasons.rows)
        limit = choice.memory_ratio * choice.cluster.accelerator.memory_bytes
        return write_pareto(output, choice.trials, limit) if pareto else ""
