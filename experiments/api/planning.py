"""`parplan.plan`: the search of `parplan plan`, with its result as a value."""

import html
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

from parplan.errors import ParplanError, RunFailedError, short
from parplan.experiments.api.inputs import PathLike, arguments, in_python, job, path_of
from parplan.experiments.arguments.objective import FEWEST
from parplan.experiments.arguments.voice import VOICE
from parplan.experiments.arguments.workload import check_job_of_space
from parplan.experiments.commands.predict.plan import options_of, with_split_layers
from parplan.experiments.output.folder import OutputFolder
from parplan.experiments.output.terminal import Style
from parplan.experiments.planning.ap.both_stacks import BothStacks
from parplan.experiments.planning.decision import Decision
from parplan.experiments.planning.explain import PlanChoice
from parplan.experiments.planning.files import report_rows, write_report
from parplan.experiments.planning.record import NAME
from parplan.experiments.planning.search import (
    Search,
    SearchRequest,
    both_stacks,
    request_of,
    search_of,
)
from parplan.experiments.planning.summary import summary_of
from parplan.experiments.planning.summary_text import summary_lines
from parplan.hardware.network.cluster import Cluster
from parplan.planners.costs.trial import Trial
from parplan.planners.search import run
from parplan.planners.search.evaluator import Evaluator
from parplan.planners.search.report import Report
from parplan.planners.search.run import SearchReport
from parplan.planners.spaces.checks import check_request
from parplan.planners.spaces.space import Space
from parplan.sim.memory.verdict import Verdict, verdict_on
from parplan.sim.workload import Workload

if TYPE_CHECKING:
    import pandas as pd

NOT_HERE = (
    *("between", "check", "measure", "resume", "why", "pareto", "detailed_log", "ap_log"),
    *VOICE,
)
"""Options of the command that say how it prints, or what it does on a machine."""

Planner = str | Callable[[Space, Evaluator, Random], None]


@dataclass(frozen=True, kw_only=True)
class SearchResult:
    """The result of `parplan.plan`; printed, it is the summary of `parplan plan`."""

    asked: SearchRequest
    search: Search
    report: Report

    @property
    def workload(self) -> Workload:
        """The workload that was planned for, with the software that was meant."""
        return self.asked.workload

    @property
    def cluster(self) -> Cluster:
        """The machine."""
        return self.asked.cluster

    @property
    def trials(self) -> tuple[Trial, ...]:
        """Every candidate that is held, with its verdict, memory and step time."""
        return self.report.trials

    @property
    def fits(self) -> bool:
        """Whether a plan was found that fits in memory."""
        return self.report.best is not None

    @cached_property
    def best(self) -> Trial:
        """The best trial: `best.plan`, `best.step_s`, `best.memory_bytes`.

        Raises `ParplanError` with the closest candidate where none fits.
        """
        found = self.report.best
        if found is None:
            raise ParplanError(self.report.nothing_fits())
        if self.asked.args.split_layers:
            return with_split_layers(
                self.workload, self.cluster, found, self.search.memory_ratio, lambda line: None
            )
        return found

    @property
    def memory_verdict(self) -> Verdict:
        """`fits`, `may fail` or `does not fit` of the best plan.

        With what allocator, context and buffers take.
        """
        return verdict_on(max(self.best.memory_bytes), self.cluster.accelerator)

    @cached_property
    def _decision(self) -> Decision:
        report = self.report
        choice = PlanChoice(
            workload=self.workload,
            cluster=self.cluster,
            best=self.best,
            trials=self.trials,
            memory_ratio=self.search.memory_ratio,
            space=report.space if isinstance(report, SearchReport) else self.search.space,
            untried_from=report.untried_s,
        )
        return Decision(
            choice=choice,
            chosen=self.asked.chosen,
            report=self.report,
            num_candidates=self.search.num_of(report),
            both=self._both,
        )

    @cached_property
    def _both(self) -> BothStacks | None:
        return both_stacks(self.asked, self.report.trials, self.search.memory_ratio)

    @cached_property
    def summary(self) -> dict[str, Any]:
        """What `parplan plan --json` prints, in the schema of docs/summary.md.

        Raises `ParplanError` where no plan fits.
        """
        return summary_of(self._decision)

    def to_frame(self) -> "pd.DataFrame":
        """The trials as a table, one row each, with the columns of `trials.csv`."""
        import pandas as pd

        frame = pd.DataFrame(report_rows(self.report, self._both))
        frame["step_s"] = [trial.step_s for trial in self.trials]
        return frame

    def save(self, folder: PathLike) -> Path:
        """Write the files that `parplan plan -o FOLDER` writes; returns the folder."""
        args = self.asked.args
        output = OutputFolder(path_of("folder", folder), ["parplan.plan"])
        if isinstance(self.report, SearchReport):
            asked = self.asked._replace(args=_with_output(args, output.path))
            kept = asked.record(self.search.memory_ratio).begin([])
            for trial in self.trials:
                kept.add(trial)
            kept.close()
            output.files.append(NAME)
        title = f"{self.workload.model.name} on {self.cluster.name}"
        write_report(output, self.report, title, self._both)
        if self.fits:
            self._decision.write(output)
            output.write_json("summary.json", self.summary)
        given = {k: v for k, v in vars(args).items() if k not in ("argv", "command")}
        output.write_manifest({k: _plain(v) for k, v in given.items()} | {"output": str(folder)})
        return output.path

    def __str__(self) -> str:
        if not self.fits:
            return self.report.nothing_fits()
        return "\n".join(summary_lines(self.summary, Style()))

    def __repr__(self) -> str:
        what = f"{self.workload.model.name} on {self.cluster.name}"
        if not self.fits:
            return f"<Result: {what}: no plan fits, {len(self.trials):,} trials>"
        return f"<Result: {what}: {self.best.step_s:.4g} s, {len(self.trials):,} trials>"

    def _repr_html_(self) -> str:
        """For notebooks: the summary, and the ten fastest plans as a table."""
        text = f"<pre>{html.escape(str(self))}</pre>"
        if not self.fits:
            return text
        frame = self.to_frame()
        frame = frame[frame["verdict"] == "fits"].sort_values("step_s", kind="stable").head(10)
        same = [c for c in frame.columns if c != "step_s" and frame[c].astype(str).nunique() == 1]
        return text + str(frame.drop(columns=same).to_html(index=False))


def _with_output(args: Any, folder: Path) -> Any:
    return type(args)(**{**vars(args), "output": folder})


def _plain(value: Any) -> Any:
    return value if isinstance(value, str | int | float | bool | None) else str(value)


register_planner = in_python(run.register_planner)


@in_python
def plan(
    workload: Workload,
    cluster: Cluster | PathLike,
    *,
    planner: Planner | None = None,
    budget: int | str | None = None,
    space: PathLike | None = None,
    **options: Any,
) -> SearchResult:
    """Find the fastest plan for `workload` on `cluster`, as `parplan plan` does.

    `planner`: a name, `module:function`, or a function of (space, evaluate, rng). `budget`: as many
    evaluations, or seconds as in `"30s"`. `space`: `everything` (default; `full` for planners other
    than branch and bound), `full`, `ap`, or a TOML file of constraints.
    `options`: those of the command by name, as `objective="cost"` or `memory_ratio=90`. `workers`
    is 1: a script that starts processes has to guard its main part. Nothing is written. Raises
    `ParplanError` for what cannot be asked, and `RunFailedError` where a planner fails.
    """
    given = {"budget": budget, "space": space, "workers": 1, **options}
    if planner is None or isinstance(planner, str):
        given["planner"] = planner
    elif not callable(planner):
        raise ParplanError(f"planner: expected a name or a function, got {short(planner)}")
    args = arguments("plan", given, NOT_HERE)
    if args.objective == FEWEST:
        raise ParplanError(f"objective: {FEWEST} compares clusters; plan for each and compare")
    own_workload, machine = job(workload, cluster)
    check_job_of_space(args.space, own_workload)
    _fill(args, own_workload, machine)
    with tempfile.TemporaryDirectory() as folder:
        args.output = Path(folder)
        settings = options_of(args)
        check_request(own_workload, machine, settings)
        if not isinstance(planner, str) and planner is not None:
            args.planner = planner
        asked = request_of(args, own_workload, machine, settings, False)
        search = search_of(asked)
        report = search.run()
    if isinstance(report, SearchReport) and report.failed:
        raise RunFailedError(f"planner {report.planner}: {report.stopped}")
    return SearchResult(asked=asked, search=search, report=report)


def _fill(args: Any, workload: Workload, machine: Cluster) -> None:
    """Fill the arguments of the command that describe the workload."""
    args.model, args.cluster = workload.model.name, machine.name
    args.seq_len, args.global_batch = workload.seq_len, str(workload.global_batch)
    args.precision, args.optimizer = workload.precision, workload.optimizer
    args.tf32, args.attention = workload.tf32, workload.attention
    args.software = None
