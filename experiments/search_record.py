"""What a search has tried, in a file, so that an interrupted search can be taken up.

`search.jsonl`: what was searched in the first line, then a line for each plan.
"""

import dataclasses
import hashlib
import json
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from parplan.experiments.progress import Progress
from parplan.hardware.cluster import Cluster
from parplan.hardware.errors import ParplanError
from parplan.hardware.files import write_whole
from parplan.planners.evaluator import Evaluator
from parplan.planners.goal import STEP_TIME
from parplan.planners.search import Trial
from parplan.planners.shared_costs import SharedCosts
from parplan.sim.plan import Plan
from parplan.sim.workload import Workload

NAME = "search.jsonl"
FORMAT = 1
EVERY_S = 10.0
"""Between two writes of a record while a search goes on."""


class Record:
    """The file of one search."""

    def __init__(
        self, folder: Path, workload: Workload, cluster: Cluster, memory_ratio: float
    ) -> None:
        self.path = folder / NAME
        self._workload, self._cluster = workload, cluster
        described = repr((cluster, workload)).encode()
        self._head: dict[str, Any] = {
            "parplan_search": FORMAT,
            "model": workload.model.name,
            "cluster": cluster.name,
            "memory_ratio": memory_ratio,
            "digest": hashlib.sha256(described).hexdigest(),
        }

    def write(self, trials: Iterable[Trial]) -> None:
        """All that was tried, whole or not at all."""
        lines = [json.dumps(self._head), *(json.dumps(_row(t)) for t in trials if _is_done(t))]
        write_whole(self.path, "".join(f"{line}\n" for line in lines).encode())

    def read(self) -> list[Trial]:
        """What an earlier search for the same has tried.

        Raises `ParplanError` where there is none, or where it was another search.
        """
        try:
            first, *lines = self.path.read_text(encoding="utf-8").splitlines()
            head, rows = json.loads(first), [json.loads(line) for line in lines]
        except OSError as error:
            raise ParplanError(f"--resume: {self.path}: {error.strerror}") from None
        except ValueError as error:
            raise ParplanError(
                f"--resume: {self.path}: not a record of a search: {error}"
            ) from None
        if head != self._head:
            raise ParplanError(
                f"--resume: {self.path}: is of another search: {_differing(self._head, head)}"
            )
        found = [_trial(row, f"{self.path}: line {n}") for n, row in enumerate(rows, start=2)]
        self._check_times(found)
        return found

    def _check_times(self, trials: Sequence[Trial]) -> None:
        """Raise `ParplanError` unless one of the steps, the best, comes out again."""
        best = STEP_TIME.best(trials)
        if best is None:
            return
        (again,) = SharedCosts(self._workload, self._cluster).timed([best])
        if again.step_s != best.step_s:
            raise ParplanError(
                f"--resume: {self.path}: is of another version of parplan: a step of {best.step_s} "
                f"s is now predicted to take {again.step_s} s; search again without --resume"
            )


def _differing(own: dict[str, Any], other: Any) -> str:
    if not isinstance(other, dict) or other.get("parplan_search") != FORMAT:
        return "unknown format"
    for name in ("model", "cluster", "memory_ratio"):
        if own[name] != other.get(name):
            return f"{name}: {other.get(name)}, not {own[name]}"
    return "the workload or the cluster is described otherwise"


def _is_done(trial: Trial) -> bool:
    return trial.step_s is not None or not trial.fits


def _row(trial: Trial) -> dict[str, Any]:
    default = Plan()
    fields = {f.name: getattr(trial.plan, f.name) for f in dataclasses.fields(Plan)}
    return {
        "plan": {name: v for name, v in fields.items() if v != getattr(default, name)},
        "reason": trial.reason,
        "memory_bytes": trial.memory_bytes,
        "step_s": trial.step_s,
    }


def _trial(row: Any, where: str) -> Trial:
    try:
        return Trial(
            plan=Plan.from_json(row["plan"], where),
            reason=row["reason"],
            memory_bytes=tuple(row["memory_bytes"]),
            step_s=row["step_s"],
        )
    except (KeyError, TypeError):
        raise ParplanError(f"--resume: {where}: not a trial: {row!r}") from None


class Watch:
    """Tells how a search goes on stderr, and keeps its record."""

    def __init__(self, record: Record, most: int) -> None:
        self._record = record
        self._most = most
        self._progress = Progress()
        self._next_s = time.monotonic() + EVERY_S

    def __call__(self, evaluator: Evaluator) -> None:
        """After an ask."""
        if evaluator.improvements:
            what = f"evaluations (best step {evaluator.improvements[-1].step_s:.4g} s)"
        else:
            what = "evaluations (nothing fits yet)"
        budget = evaluator.budget.evaluations
        self._progress(what, evaluator.num_asked, self._most if budget is None else budget)
        if time.monotonic() >= self._next_s:
            self._record.write(evaluator.trials)
            self._next_s = time.monotonic() + EVERY_S

    def end(self, trials: Sequence[Trial]) -> None:
        """When the search is over."""
        self._progress.end()
        self._record.write(trials)
