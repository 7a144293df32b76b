"""Search journals for `parplan plan --resume`.

`search.jsonl`: what was searched in the first line, then a line for each plan
(`parplan._journal`).
"""

import dataclasses
import hashlib
import os
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from parplan._files import remove_file
from parplan._journal import Journal, read_journal
from parplan._strict import build
from parplan.errors import ParplanError, short
from parplan.experiments.output.progress import ProgressLine
from parplan.hardware.network.cluster import Cluster
from parplan.planners.costs.cost_cache import SharedCosts
from parplan.planners.costs.goal import STEP_TIME
from parplan.planners.costs.trial import Trial
from parplan.planners.search.evaluator import Evaluator
from parplan.planners.search.exhaustive import PART
from parplan.planners.search.kept_trials import Numbered, PartResult
from parplan.planners.search.limits import MOST_RECORDED
from parplan.sim.plan import Plan, check_plan
from parplan.sim.workload import Workload

NAME = "search.jsonl"
FORMAT = 2
FIRST_S = 3.0
"""A search that is over sooner is not worth a record of each plan while it goes on."""
EVERY_S = 1.0
"""Between two writes of a record while a search goes on: what an end by force may cost."""


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

    def read(self) -> list[Trial]:
        """What an earlier search for the same has tried; nothing where there was none.

        Raises `ParplanError` where it was another search.
        """
        if not os.path.lexists(self.path):
            return []
        try:
            found = read_journal(self.path)
        except ParplanError as error:
            raise ParplanError(f"--resume: {error}") from None
        rows = self._rows(found, self._head)
        trials = [self._trial(row, f"{self.path}: line {n}") for n, row in enumerate(rows, start=2)]
        self._check_times(list(enumerate(trials, start=2)))
        return trials

    def _trial(self, row: Any, where: str) -> Trial:
        trial = _trial(row, where)
        if trial.memory_bytes:  # It was laid out.
            try:
                check_plan(trial.plan, self._workload, self._cluster.num_accelerators)
            except ParplanError as error:
                raise ParplanError(f"--resume: {where}: {error}") from None
        return trial

    def _rows(
        self, found: Sequence[dict[str, Any]], own: dict[str, Any]
    ) -> Sequence[dict[str, Any]]:
        if not found:  # It was cut off in its first line.
            return []
        head, *rows = found
        if head != own:
            raise ParplanError(
                f"--resume: {self.path}: is of another search: {_differing(own, head)}"
            )
        return rows

    def _check_times(self, trials: Sequence[tuple[int, Trial]]) -> None:
        """Raise `ParplanError` unless one of the steps, the best, comes out again.

        Trials with the numbers of their lines.
        """
        best = STEP_TIME.best([trial for _, trial in trials])
        if best is None:
            return
        line = next(line for line, trial in trials if trial is best)
        try:
            (again,) = SharedCosts(self._workload, self._cluster).timed([best])
        except ParplanError as error:
            raise ParplanError(f"--resume: {self.path}: line {line}: {error}") from None
        if again.step_s != best.step_s:
            raise ParplanError(
                f"--resume: {self.path}: line {line}: is of another version of parplan: a step of "
                f"{best.step_s} s is now predicted to take {again.step_s} s; search again without "
                "--resume"
            )

    def begin(self, known: Iterable[Trial]) -> "Kept":
        """Add to the record: one of the trials that were `read`, else a new one."""
        known = list(known)
        return Kept(Journal(self.path, self._head, anew=not known), known)

    def parts(self, candidates: int, about: object, known: bool) -> "SearchParts":
        """The record of a search whose trials are not all held.

        Of a new one, or of one that is `known`. `about`: what else it depends on. Raises
        `ParplanError` as `read` does.
        """
        head = {**self._head, "candidates": candidates, "part": PART}
        head["about"] = hashlib.sha256(repr(about).encode()).hexdigest()
        found: list[PartResult] = []
        known = known and os.path.lexists(self.path)
        if known:
            try:
                rows = self._rows(read_journal(self.path), head)
            except ParplanError as error:
                text = str(error).removeprefix("--resume: ")
                raise ParplanError(f"--resume: {text}") from None
            found = [
                self._part(row, place, min(PART, candidates - place * PART))
                for place, row in enumerate(rows)
            ]
            self._check_times(
                [(n, one.trial) for n, part in enumerate(found, start=2) for one in part.held]
            )
        return SearchParts(Journal(self.path, head, anew=not known), found)

    def _part(self, row: Any, place: int, count: int) -> PartResult:
        """The part of so many candidates at a place of the parts."""
        where = f"{self.path}: line {2 + place}"
        sound = isinstance(row, dict) and row.keys() == {"fitting", "held"}
        if not sound or not _is_whole(row["fitting"], 0, count) or not _are_tables(row["held"]):
            raise ParplanError(f"--resume: {where}: not a part of a search: {short(row)}")
        held = []
        for own in row["held"]:
            rest = dict(own)
            number = rest.pop("number", None)
            if not _is_whole(number, place * PART + 1, place * PART + count):
                raise ParplanError(f"--resume: {where}: number: {short(number)}")
            held.append(Numbered(number, self._trial(rest, where)))
        return PartResult(row["fitting"], tuple(held))

    @property
    def digest(self) -> str:
        """Of the workload and the cluster."""
        return str(self._head["digest"])

    def remove(self) -> None:
        """There is nothing to take up: the results are on the disk."""
        remove_file(self.path)

    def remove_left(self, manifest: Path) -> None:
        """Remove what a search left that was ended between its manifest and the end of its record.

        Not the record of a later search, or of another one.
        """
        try:
            late = self.path.lstat().st_mtime_ns > manifest.stat().st_mtime_ns
            head, *_ = read_journal(self.path) or [{}]
        except (OSError, ParplanError):
            return
        if not late and head.get("digest") == self.digest:
            self.remove()


class Kept:
    """The trials of a search, each in its record soon after it is there."""

    def __init__(self, journal: Journal, known: Iterable[Trial]) -> None:
        self._journal = journal
        self._known = {trial.plan for trial in known}
        self._new: list[Trial] = []
        self._next_s = time.monotonic() + FIRST_S

    def add(self, trial: Trial) -> None:
        """One more."""
        if trial.plan not in self._known and _is_done(trial):
            self._new.append(trial)
        if time.monotonic() >= self._next_s:
            self.write()

    def write(self) -> None:
        """Flush the buffered trials to disk."""
        self._journal.extend(_row(trial) for trial in self._new)
        self._new.clear()
        self._next_s = time.monotonic() + EVERY_S

    def close(self) -> None:
        """Flush the buffered trials and close the file."""
        self.write()
        self._journal.close()


class SearchParts:
    """The parts of a search whose trials are not all held."""

    def __init__(self, journal: Journal, known: Sequence[PartResult]) -> None:
        self.known = known
        self._journal = journal

    def add(self, part: PartResult) -> None:
        """One more, in the order of the candidates."""
        held = [{"number": one.number, **_row(one.trial)} for one in part.held]
        self._journal.extend([{"fitting": part.num_fitting, "held": held}])

    def close(self) -> None:
        """Close the file."""
        self._journal.close()


def _is_whole(value: object, least: int, most: int) -> bool:
    return type(value) is int and least <= value <= most


def _are_tables(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(own, dict) for own in value)


def _differing(own: dict[str, Any], other: Any) -> str:
    if not isinstance(other, dict) or other.get("parplan_search") != FORMAT:
        return "unknown format"
    for name in ("model", "cluster", "memory_ratio"):
        if own[name] != other.get(name):
            return f"{name}: {other.get(name)}, not {own[name]}"
    if own["digest"] == other.get("digest"):
        return "the candidates are others"
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
    where = f"--resume: {where}"
    if not isinstance(row, dict) or not isinstance(row.get("plan"), dict):
        raise ParplanError(f"{where}: not a trial: {short(row)}")
    plan = Plan.from_json(row["plan"], where)
    kept = build(_Kept, {k: v for k, v in row.items() if k != "plan"}, where)
    # A plan without a step that has no reason either was not tried.
    if (kept.step_s is None) != bool(kept.reason):
        raise ParplanError(f"{where}: a step or a reason is needed, not both: {short(row)}")
    if len(kept.memory_bytes) != plan.num_stages and (kept.memory_bytes or not kept.reason):
        raise ParplanError(f"{where}: memory_bytes: {len(kept.memory_bytes)} of {plan.num_stages}")
    return Trial(plan=plan, reason=kept.reason, memory_bytes=kept.memory_bytes, step_s=kept.step_s)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Kept:
    """The fields of a trial in its line, but for its plan."""

    reason: str
    memory_bytes: tuple[float, ...]
    step_s: float | None

    def __post_init__(self) -> None:
        if self.step_s is not None and not self.step_s > 0:
            raise ParplanError(f"step_s: must be above 0, got {self.step_s}")
        if any(not of_rank >= 0 for of_rank in self.memory_bytes):
            raise ParplanError("memory_bytes: must be at least 0")


class SearchRecorder:
    """Tells how a search goes on stderr, and keeps its record."""

    def __init__(self, kept: Kept, most: int, progress: ProgressLine) -> None:
        self._kept = kept
        self._most = most
        self._num_seen = 0
        self._progress = progress

    def __call__(self, evaluator: Evaluator) -> None:
        """After an ask."""
        if evaluator.improvements:
            what = f"evaluations (best step {evaluator.improvements[-1].step_s:.4g} s)"
        else:
            what = "evaluations (nothing fits yet)"
        budget = evaluator.budget.evaluations
        of = self._most if budget in (None, MOST_RECORDED) else budget
        self._progress(what, evaluator.num_asked, of or self._most)
        for trial in evaluator.trials_since(self._num_seen):
            self._num_seen += 1
            self._kept.add(trial)

    def end(self) -> None:
        """End the progress display and close the record."""
        self._progress.end()
        self._kept.close()
