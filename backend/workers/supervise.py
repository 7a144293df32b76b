"""Supervision of workers: unresponsive, stalled and slow ones.

Works on what they leave in the folder of the job (`parplan.backend.workers.heartbeat`). Imports no
torch.
"""

import json
import os
import signal
import statistics
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from parplan.backend.workers.awake_clock import AwakeClock
from parplan.errors import RunFailedError

SILENT_S = 30.0
"""A worker that has not answered for so long is stopped or hangs, and the run is ended."""

LONGEST_LOOK_S = 5.0
"""What is longer than this between two looks is a pause of the machine, which does not count."""

STALL_S = 600.0
"""Where no worker has got further for so long, they wait for each other."""

SLOW_FACTOR = 1.5
"""A worker that computes so many times as long as others, or as before, is called slow."""

FEWEST_STEPS = 3
"""Steps of a plan on which that is judged."""

Row = Mapping[str, Any]


class CutOffError(RunFailedError):
    """A run that ended early, with the steps that were measured before."""

    def __init__(self, message: str, steps: Mapping[int, list[Row]]) -> None:
        super().__init__(message)
        self.steps = steps
        """By rank, each with its plan, seconds and seconds of forwards."""


class Slow(NamedTuple):
    """One rank that computes longer than it should."""

    rank: int
    factor: float
    than: str


class Supervisor:
    """Called again and again while a job runs; `report` gets a line for each slow rank.

    Raises `RunFailedError` for workers that do not answer, or get no further.
    """

    def __init__(
        self,
        folder: Path,
        report: Callable[[str], None],
        *,
        silent_s: float = SILENT_S,
        stall_s: float = STALL_S,
    ) -> None:
        self.folder, self.report = folder, report
        self.silent_s, self.stall_s = silent_s, stall_s
        self._clock = AwakeClock(LONGEST_LOOK_S)
        self._beats: dict[int, tuple[int, float]] = {}
        self._sizes: dict[str, int] = {}
        self._further_s = 0.0
        self._heard = self._paused = False
        self._named: set[int] = set()

    def further(self) -> None:
        """Note that a worker has said something."""
        self._heard = True

    def __call__(self) -> None:
        """Look once."""
        if self._all_stopped():
            self._clock.skip()
            return
        now_s = self._clock.now_s()
        ages = self._silence_s(now_s)
        silent = sorted(rank for rank, age in ages.items() if age > self.silent_s)
        if silent:
            names = ", ".join(f"worker {rank} ({_state(self.folder, rank)})" for rank in silent)
            raise RunFailedError(
                f"{names} did not answer for {self.silent_s:g} s; all workers were ended"
            )
        sizes = {path.name: path.stat().st_size for path in self.folder.glob("steps.*.jsonl")}
        sizes |= dict.fromkeys(map(str, ages), 0)
        if not ages or sizes != self._sizes:
            self._sizes = sizes
            self._heard = True
            self._name_slow()
        if self._heard:
            self._heard, self._further_s = False, now_s
        if now_s - self._further_s > self.stall_s:
            raise RunFailedError(
                f"no worker got further within {self.stall_s:g} s; all workers were ended "
                "(a longer step needs a longer --stall)"
            )

    def _silence_s(self, now_s: float) -> dict[int, float]:
        """Seconds since each worker last touched its file, as far as this process was awake."""
        found = {rank: path.stat().st_mtime_ns for rank, path in self._alive()}
        self._beats = {
            rank: known
            if (known := self._beats.get(rank)) and known[0] == touched
            else (touched, now_s)
            for rank, touched in found.items()
        }
        return {rank: now_s - since_s for rank, (_, since_s) in self._beats.items()}

    def _all_stopped(self) -> bool:
        """Whether somebody has stopped all workers at once, as a shell or a scheduler does."""
        alive = self._alive()
        paused = len(alive) > 1 and all(_state(self.folder, r) == "stopped" for r, _ in alive)
        if paused and not self._paused:
            self.report("all workers are stopped (by a signal); this run waits until they go on")
        self._paused = paused
        return paused

    def end_workers(self) -> None:
        """Kill the workers that are still there, stopped ones as well."""
        for rank, _ in self._alive():
            process = _process(self.folder, rank)
            if process is not None and _is_of(process, self.folder):
                os.kill(process, signal.SIGKILL)

    def _alive(self) -> list[tuple[int, Path]]:
        return [(int(path.suffix[1:]), path) for path in self.folder.glob("alive.*")]

    def _name_slow(self) -> None:
        for slow in slow_ranks(steps_of(self.folder)):
            if slow.rank not in self._named:
                self._named.add(slow.rank)
                self.report(
                    f"warning: worker {slow.rank} computes {slow.factor:.1f} times as long as "
                    f"{slow.than}"
                )


def steps_of(folder: Path) -> dict[int, list[Row]]:
    """Read the recorded training steps of each rank; a line that is being written is left out."""
    found: dict[int, list[Row]] = {}
    for path in folder.glob("steps.*.jsonl"):
        lines = path.read_text(encoding="utf-8").split("\n")[:-1]
        found[int(path.name.split(".")[1])] = [json.loads(line) for line in lines]
    return dict(sorted(found.items()))


def slow_ranks(steps: Mapping[int, Iterable[Row]]) -> list[Slow]:
    """The ranks whose forwards take much longer than others' of the same work, or than before.

    By the medians of `FEWEST_STEPS` steps, without each plan's first.
    """
    times: dict[tuple[str, int], dict[int, list[float]]] = {}
    for rank, rows in steps.items():
        for row in rows:
            plan = row["plan"]
            if plan.get("zero_stage", 0) >= 2 or plan.get("tensor_parallel", 1) > 1:
                continue
            work = json.dumps(plan), row["stage"]
            times.setdefault(work, {}).setdefault(rank, []).append(row["forward_s"])
    found: dict[int, Slow] = {}
    for of_ranks in times.values():
        known = {r: _medians(own[1:]) for r, own in of_ranks.items() if len(own) > FEWEST_STEPS}
        for rank, (first_s, last_s) in known.items():
            fastest, least_s = min(((r, s) for r, (_, s) in known.items()), key=lambda p: p[1])
            if last_s > SLOW_FACTOR * least_s > 0:
                found.setdefault(rank, Slow(rank, last_s / least_s, f"worker {fastest}"))
            elif last_s > SLOW_FACTOR * first_s > 0:
                found.setdefault(rank, Slow(rank, last_s / first_s, "it did before"))
    return [found[rank] for rank in sorted(found)]


def _medians(seconds: list[float]) -> tuple[float, float]:
    """Medians of the first and of the last steps."""
    return statistics.median(seconds[:FEWEST_STEPS]), statistics.median(seconds[-FEWEST_STEPS:])


def _process(folder: Path, rank: int) -> int | None:
    try:
        return int((folder / f"alive.{rank}").read_text())
    except (OSError, ValueError):
        return None


def _is_of(process: int, folder: Path) -> bool:
    """Whether a process is one of this job, and not a later one of the same number."""
    try:
        return str(folder).encode() in Path(f"/proc/{process}/cmdline").read_bytes()
    except OSError:
        return False


def _state(folder: Path, rank: int) -> str:
    """The state of a worker process according to the kernel, in a word."""
    try:
        status = Path(f"/proc/{_process(folder, rank)}/stat").read_text()
    except OSError:
        return "gone"
    letter = status.rpartition(")")[2].split()[0]
    return {"T": "stopped", "t": "traced", "D": "waits for a device", "Z": "dead"}.get(
        letter, "hangs"
    )
