"""Results of executed plans, predicted and measured, for files. Imports no torch."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from parplan._strict import build
from parplan.errors import ParplanError, short
from parplan.sim.plan import Plan
from parplan.sim.run import Event, Run
from parplan.sim.workload import Workload

FORMAT = 1
"""Of the file; older ones are refused."""

RUNS = ("predicted", "measured", "profiled")


@dataclass(frozen=True, slots=True, kw_only=True)
class Executed:
    """One plan as predicted and as it ran."""

    plan: Plan
    predicted: Run
    measured: Run
    """The step of median duration."""
    profiled: Run
    """Another step, slowed by the profiler, with its collectives."""
    predicted_exposed_s: Mapping[str, float]
    """Seconds of waiting for collectives, mean over the ranks: by stream within computations
    (data-parallel, tensor-parallel), and within the optimizer."""
    measured_exposed_s: Mapping[str, float]
    samples_s: tuple[float, ...]
    """Every step after the warm-up."""
    loss_difference: float | None
    """Largest relative difference of its losses to those of one process without a plan; None where
    nothing ran beside it."""
    predicted_bytes: tuple[float, ...]
    """Peak memory of every pipeline rank."""
    measured_bytes: tuple[float, ...]
    """Peak memory of every process, in order: replicas and tensor-parallel ranks innermost; empty
    where nobody has measured it."""

    @property
    def error(self) -> float:
        """Predicted over measured step time, minus one."""
        return self.predicted.step_s / self.measured.step_s - 1

    @property
    def memory_error(self) -> float | None:
        """Predicted over measured peak memory, minus one, of the process where it is furthest.

        None where it is not measured.
        """
        if not self.measured_bytes:
            return None
        width = len(self.measured_bytes) // len(self.predicted_bytes)
        errors = [
            self.predicted_bytes[process // width] / measured - 1
            for process, measured in enumerate(self.measured_bytes)
        ]
        return max(errors, key=abs)

    @property
    def spread(self) -> float:
        """Half the range of the middle half of the steps, relative to the median."""
        ordered = sorted(self.samples_s)
        quarter = len(ordered) // 4
        return (ordered[-1 - quarter] - ordered[quarter]) / 2 / self.measured.step_s


def best_by_stages(candidates: Sequence[tuple[Plan, float]]) -> list[Plan]:
    """For each number of stages the plan of the shortest step, the shortest of all first.

    The times of single layers order plans of one kind better than kinds of plans.
    """
    found: dict[int, Plan] = {}
    for plan, _ in sorted(candidates, key=lambda candidate: candidate[1]):
        found.setdefault(plan.num_stages, plan)
    return list(found.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class HandWritten:
    """The same training step as a plan's, written by hand for it alone."""

    name: str
    plan: int
    """Place of the plan among the executed ones."""
    samples_s: tuple[float, ...]
    """Every step after the warm-up; they took turns with those of the plan."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Execution:
    """Results of one job: the measured costs, the plan they would choose, the executed plans."""

    workload: Workload | None
    """None: the model of a training script."""
    num_processes: int
    calibration: list[dict[str, Any]]
    """Of every proxy: its plan, blocks on each stage, and the medians of what its parts cost."""
    candidates: tuple[tuple[Plan, float], ...]
    """Plans that could be executed, with the step in seconds that the times of single layers give;
    none where nothing was to be chosen."""
    executed: tuple[Executed, ...]
    out_of_memory: tuple[Plan, ...] = ()
    """Plans that were asked for and did not fit into the memory that was there."""
    hand_written: tuple[HandWritten, ...] = ()

    @property
    def chosen(self) -> list[Plan]:
        """The candidates that ran."""
        return best_by_stages(self.candidates)

    def to_json(self) -> dict[str, Any]:
        """A table that `from_json` reads back."""
        return {
            "format": FORMAT,
            "workload": self.workload and asdict(self.workload),
            "num_processes": self.num_processes,
            "calibration": self.calibration,
            "candidates": [[plan.to_json(), step_s] for plan, step_s in self.candidates],
            "executed": [_table(executed) for executed in self.executed],
            "out_of_memory": [plan.to_json() for plan in self.out_of_memory],
            "hand_written": [asdict(written) for written in self.hand_written],
        }

    @staticmethod
    def from_json(table: Any, where: str = "execution") -> "Execution":
        """The execution of a JSON table; raises `ParplanError` for one of another format."""
        if not isinstance(table, dict) or table.get("format") != FORMAT:
            raise ParplanError(f"{where}: not an execution of format {FORMAT}; run it again")
        try:
            return Execution._of(table, where)
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            what = f"{type(error).__name__}: {error}"
            raise ParplanError(f"{where}: not what an execution leaves: {what}") from None
        except ParplanError as error:
            said = str(error)
            raise (error if said.startswith(where) else ParplanError(f"{where}: {said}")) from None

    @staticmethod
    def _of(table: dict[str, Any], where: str) -> "Execution":
        return Execution(
            workload=table["workload"] and build(Workload, table["workload"], f"{where}: workload"),
            num_processes=int(_number(table["num_processes"], 1)),
            calibration=table["calibration"],
            candidates=tuple((Plan.from_json(p), _number(s)) for p, s in table["candidates"]),
            executed=tuple(executed_of(each) for each in table["executed"]),
            out_of_memory=tuple(Plan.from_json(plan) for plan in table["out_of_memory"]),
            hand_written=tuple(
                HandWritten(name=w["name"], plan=w["plan"], samples_s=_numbers(w["samples_s"]))
                for w in table["hand_written"]
            ),
        )


def run_table(run: Run) -> dict[str, Any]:
    """A run as JSON."""
    return {"step_s": run.step_s, "events": [list(event) for event in run.events]}


def _run(table: dict[str, Any], source: str) -> Run:
    events = tuple(
        Event(
            int(_number(rank)), str(stream), str(name), _number(start, LEAST), _number(end, LEAST)
        )
        for rank, stream, name, start, end in table["events"]
    )
    return Run(step_s=_number(table["step_s"], SHORTEST_S), events=events, source=source)


SHORTEST_S = 1e-12
"""Of a step that took place."""


LEAST = -1e18
"""Of differences of times."""


def _number(value: object, least: float = 0.0) -> float:
    """A number of a file; raises `ParplanError` for what is none, or is too small."""
    if type(value) not in (int, float) or not least <= value < math.inf:  # type: ignore[operator]
        raise ParplanError(f"expected a number of at least {least:g}, got {short(value)}")
    return value  # type: ignore[return-value]


def _numbers(values: object, least: float = 0.0) -> tuple[float, ...]:
    if not isinstance(values, list | tuple):
        raise ParplanError(f"expected a list of numbers, got {short(values)}")
    return tuple(_number(value, least) for value in values)


def _by_name(table: object) -> dict[str, float]:
    if not isinstance(table, dict):
        raise ParplanError(f"expected a table of numbers, got {short(table)}")
    return {name: _number(value, LEAST) for name, value in table.items()}


def _table(executed: Executed) -> dict[str, Any]:
    runs = {name: run_table(getattr(executed, name)) for name in RUNS}
    others = ("samples_s", "loss_difference", "predicted_bytes", "measured_bytes")
    waits = ("predicted_exposed_s", "measured_exposed_s")
    rest = {name: getattr(executed, name) for name in (*others, *waits)}
    return {"plan": executed.plan.to_json(), **runs, **rest}


def executed_of(table: dict[str, Any]) -> Executed:
    """Read one executed plan as `Execution.to_json` or a job wrote it."""
    loss = table["loss_difference"]
    return Executed(
        plan=Plan.from_json(table["plan"]),
        predicted=_run(table["predicted"], "predicted"),
        measured=_run(table["measured"], "measured"),
        profiled=_run(table["profiled"], "profiled"),
        predicted_exposed_s=_by_name(table["predicted_exposed_s"]),
        measured_exposed_s=_by_name(table["measured_exposed_s"]),
        samples_s=_numbers(table["samples_s"], SHORTEST_S),
        loss_difference=None if loss is None else _number(loss),
        predicted_bytes=_numbers(table["predicted_bytes"], 1),
        measured_bytes=_numbers(table["measured_bytes"], 1),
    )
