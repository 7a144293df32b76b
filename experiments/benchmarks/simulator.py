"""Benchmark of the simulators: CPU seconds of one process, the best of several runs.

Costs are random and differ between all stages, messages take time on their links.
"""

import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any
from unittest.mock import patch

import numpy as np
import simpy

from parplan.sim.cluster.whole_cluster import simulate_cluster
from parplan.sim.costs import StageCosts
from parplan.sim.engine.engine import simulate
from parplan.sim.fast.fast import Kernel, fast_many, fast_many_ps, fast_step_s
from parplan.sim.fast.numpy_sweep import LANES
from parplan.sim.fast.shared_link_evaluator import contended_many_ps
from parplan.sim.plan import Plan
from parplan.sim.prediction.predict import CompiledPlan
from parplan.sim.programs.arrays import action_arrays
from parplan.sim.programs.instructions import Schedule
from parplan.sim.schedules import make_schedule
from parplan.sim.step.self_check import check_steps
from parplan.sim.step.shared_links import node_links
from parplan.sim.step.step_tables import sweep_tables
from parplan.sim.step.sweep import compiled_loops
from parplan.sim.step.tape import Tape, lower, lower_arrays
from parplan.sim.ticks import StageTicks, ticks_of_seconds

SEED = 20
REPEATS = 5


@dataclass(frozen=True, slots=True)
class Size:
    """Pipeline ranks, micro-batches, chunks of the model on each rank; 1F1B or interleaved."""

    ranks: int
    micro_batches: int
    chunks: int

    def __str__(self) -> str:
        return f"({self.ranks}, {self.micro_batches}, {self.chunks})"

    @property
    def stages(self) -> int:
        """Stages of the pipeline."""
        return self.ranks * self.chunks

    def schedule(self) -> Schedule:
        """The lists."""
        if self.chunks == 1:
            return make_schedule("1f1b", self.ranks, self.micro_batches)
        return make_schedule("interleaved-1f1b", self.ranks, self.micro_batches, self.chunks)


SMALL, MIDDLE = Size(4, 8, 1), Size(8, 64, 1)
SIZES = (SMALL, MIDDLE, Size(16, 128, 2), Size(64, 512, 2))
REPLICAS = Size(16, 16, 1), 128
"""Of the 3D plan of Llama 3 405B on 16,384 GPUs (arXiv:2407.21783, table 4), with `TENSOR`."""
TENSOR = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """One figure, and what is aimed at."""

    what: str
    value: float
    unit: str
    target: str = ""


def measures(
    sizes: tuple[Size, ...] = SIZES,
    batch_size: Size = MIDDLE,
    candidates: int = 10_000,
    replicas: tuple[Size, int] = REPLICAS,
) -> Iterator[Measure]:
    """All figures, as they are found; the last of `sizes` is also lowered and swept alone."""
    yield _bare()
    for size in sizes:
        yield from _engine(size, "at most 1.5 s" if size == SIZES[-1] else "")
    yield from _lowering(sizes[-1])
    yield from _alone(sizes[-1])
    yield from _batch(batch_size, candidates)
    yield from _contended(batch_size, max(1, candidates // 10))
    yield from _whole_cluster(*replicas)


def cpu_s(function: Callable[[], object], repeats: int = REPEATS) -> float:
    """CPU seconds of the fastest of several calls."""
    best = float("inf")
    for _ in range(repeats):
        start = time.process_time()
        function()
        best = min(best, time.process_time() - start)
    return best


def random_stages(count: int) -> list[StageCosts]:
    """Costs of the stages of one candidate."""
    draw = np.random.default_rng(SEED)
    names = ("forward_s", "input_gradient_s", "weight_gradient_s", "send_s", "latency_s")
    ranges = ((0.5, 1.0), (0.5, 1.0), (0.5, 1.0), (0.0, 0.3), (0.0, 0.1))
    rows = [[float(draw.uniform(*r)) for r in ranges] for _ in range(count)]
    return [StageCosts(**dict(zip(names, row, strict=True))) for row in rows]  # type: ignore[arg-type]


def random_ticks(candidates: int, stages: int) -> StageTicks:
    """Costs of many candidates."""
    draw, shape = np.random.default_rng(SEED), (candidates, stages)
    return ticks_of_seconds(
        forward_s=draw.uniform(0.5, 1.0, shape),
        input_gradient_s=draw.uniform(0.5, 1.0, shape),
        weight_gradient_s=draw.uniform(0.5, 1.0, shape),
        send_s=draw.uniform(0.0, 0.3, shape),
        latency_s=draw.uniform(0.0, 0.1, shape),
    )


def num_events(schedule: Schedule, costs: list[StageCosts]) -> int:
    """The number of events that SimPy handles."""
    count = 0
    schedule_event = simpy.Environment.schedule

    def counted(*args: object, **kwargs: object) -> None:
        nonlocal count
        count += 1
        schedule_event(*args, **kwargs)  # type: ignore[arg-type]

    with patch.object(simpy.Environment, "schedule", counted):
        simulate(schedule, costs)
    return count


def _bare(processes: int = 8, events: int = 100_000) -> Measure:
    """Time of SimPy when processes only wait: a lower limit for every simulation with it."""

    def process(env: simpy.Environment) -> Generator[simpy.Event, Any, None]:
        for _ in range(events // processes):
            yield simpy.Timeout(env, 1)

    def simulation() -> None:
        env = simpy.Environment()
        for _ in range(processes):
            env.process(process(env))
        env.run()

    what = f"SimPy, {processes} processes that only wait"
    return Measure(what=what, value=events / cpu_s(simulation), unit="events/s")


def _engine(size: Size, target: str) -> Iterator[Measure]:
    schedule, costs = size.schedule(), random_stages(size.stages)
    actions, events = sum(map(len, schedule)), num_events(schedule, costs)
    seconds = cpu_s(lambda: simulate(schedule, costs), 3 if actions > 10_000 else REPEATS)
    yield Measure(what=f"SimPy {size}", value=seconds, unit="s", target=target)
    yield Measure(
        what=f"SimPy {size}", value=events / seconds, unit="events/s", target="at least 500,000"
    )
    yield Measure(
        what=f"SimPy {size}", value=events / actions, unit="events/action", target="at most 2.5"
    )


def _lowering(size: Size) -> Iterator[Measure]:
    schedule = size.schedule()
    arrays = action_arrays(schedule)
    unit, scale = "ns/action", 1e9 / len(arrays)
    seconds = cpu_s(lambda: action_arrays(schedule))
    yield Measure(what=f"lists to arrays {size}", value=seconds * scale, unit=unit)
    for compiled in (False, True):
        if compiled and compiled_loops(load=True) is None:
            return
        lower_arrays(arrays, compiled=compiled)
        seconds = cpu_s(partial(lower_arrays, arrays, compiled=compiled))
        what = f"arrays to tape {size}, {'numba' if compiled else 'Python'}"
        yield Measure(what=what, value=seconds * scale, unit=unit, target="at most 200")


def _kernels(*without: Kernel) -> list[Kernel]:
    kernels: list[Kernel] = ["python", "numpy"]
    if compiled_loops(load=True) is not None:
        kernels.append("numba")
    return [kernel for kernel in kernels if kernel not in without]


def _alone(size: Size) -> Iterator[Measure]:
    tape, costs = lower(size.schedule()), random_stages(size.stages)
    for kernel in _kernels("numpy"):
        fast_step_s(tape, costs, kernel=kernel)
        seconds = cpu_s(partial(fast_step_s, tape, costs, kernel=kernel))
        what = f"one candidate {size}, {kernel}"
        yield Measure(what=what, value=seconds * 1e3, unit="ms", target="at most 5")


def _batch(size: Size, candidates: int) -> Iterator[Measure]:
    schedule = size.schedule()
    engine_s = cpu_s(lambda: simulate(schedule, random_stages(size.stages)))
    tape, ticks = lower(schedule), random_ticks(candidates, size.stages)
    targets = {"numpy": "at least 100", "numba": "at least 1,000"}
    for kernel in _kernels("python"):
        seconds = _per_candidate(tape, ticks, kernel)
        what = f"{candidates:,} candidates {size}, {kernel}"
        yield Measure(what=what, value=seconds * 1e6, unit="us/candidate")
        yield Measure(what=what, value=engine_s / seconds, unit="x SimPy", target=targets[kernel])
        yield _check(what, tape, ticks, seconds * candidates)


def _check(what: str, tape: Tape, ticks: StageTicks, swept_s: float) -> Measure:
    """Cost of the self-check of a batch, as a share of its whole time."""
    steps, tables = fast_many_ps(tape, ticks), sweep_tables(tape, ticks, None, LANES)
    share = cpu_s(lambda: check_steps(tape, tables, steps), 20) / swept_s
    return Measure(what=f"{what}, self-check", value=100 * share, unit="%", target="at most 2")


def _per_candidate(tape: Tape, ticks: StageTicks, kernel: Kernel) -> float:
    fast_many(tape, ticks, kernel=kernel)
    return cpu_s(partial(fast_many, tape, ticks, kernel=kernel), 3) / ticks.num_candidates


def _contended(size: Size, candidates: int) -> Iterator[Measure]:
    schedule, costs = size.schedule(), random_stages(size.stages)
    tape, ticks = lower(schedule), random_ticks(candidates, size.stages)
    for sharing in ("fifo", "fair"):
        links = node_links(size.ranks, 2, sharing)
        engine_s = cpu_s(partial(simulate, schedule, costs, links=links), 3)
        for compiled in (False, True):
            if compiled and (sharing == "fair" or compiled_loops(load=True) is None):
                continue
            few = ticks if compiled else random_ticks(max(1, candidates // 100), size.stages)
            simulation = partial(contended_many_ps, tape, few, links, compiled=compiled)
            simulation()
            seconds = cpu_s(simulation, 3)
            what = f"shared links, {sharing} {size}, {'numba' if compiled else 'Python'}"
            ratio = engine_s * few.num_candidates / seconds
            target = "at least 50" if compiled else ""
            yield Measure(what=what, value=ratio, unit="x SimPy", target=target)


def _whole_cluster(size: Size, replicas: int) -> Iterator[Measure]:
    """A step with two stragglers, of one replica of each kind and of all of them."""
    plan = Plan(num_stages=size.ranks, tensor_parallel=TENSOR, data_parallel=replicas)
    costs = tuple(random_stages(size.stages))
    compiled = CompiledPlan(plan=plan, schedule=size.schedule(), costs=costs, memory=())
    slowdown = {0: 1.2, plan.num_devices - 1: 1.5}
    for folded in (True, False):
        simulation = partial(simulate_cluster, compiled, slowdown=slowdown, folded=folded)
        how = "one replica of each kind" if folded else "all replicas"
        what = f"{plan.num_devices:,} ranks, {how}"
        target = "at most 1 s" if folded else ""
        yield Measure(what=what, value=cpu_s(simulation, 3), unit="s", target=target)
