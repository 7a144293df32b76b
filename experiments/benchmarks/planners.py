"""Benchmark of the search on this machine, and a check of its bounds on sampled plans."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random

import numpy as np

from parplan.errors import ParplanError
from parplan.experiments.benchmarks.simulator import SEED, Measure, cpu_s
from parplan.hardware.machines.presets import cluster_preset
from parplan.planners.ap.candidates import ap_candidates
from parplan.planners.bounds.space_table import SpaceTable
from parplan.planners.costs.cost_cache import SharedCosts
from parplan.planners.search.exact_steps import all_steps_s
from parplan.planners.search.exhaustive import exhaustive
from parplan.planners.search.run import run_planner
from parplan.planners.spaces.constraints import Constraints, Range
from parplan.planners.spaces.make import full_space, make_space
from parplan.planners.spaces.options import Options
from parplan.planners.spaces.space import Space
from parplan.planners.spaces.variants import Box
from parplan.sim.fast.fast import Kernel, fast_many
from parplan.sim.models.model import model_preset
from parplan.sim.plan import Plan
from parplan.sim.prediction.predict import schedule_key
from parplan.sim.schedules import make_program
from parplan.sim.software.framework import NO_OVERHEAD
from parplan.sim.step.sweep import compiled_loops
from parplan.sim.step.tape import lower
from parplan.sim.ticks import stage_ticks
from parplan.sim.workload import Workload

AP_S = 6.103 + 0.808
"""What AP's reference log says it took to compile and to time its candidates."""

MOST_ACTIONS = 8192
"""Sampled plans have lists of at most so many actions in all, for the sake of time."""

PEER = Path(__file__).parent / "calculon_rate.py"


@dataclass(frozen=True, slots=True, kw_only=True)
class Searched:
    """A workload on a cluster with the constraints of the space that is searched."""

    name: str
    model: str
    cluster: str
    seq_len: int
    batch: int
    constraints: Constraints
    most_s: float = 0.3
    """What a search should take at most."""

    def space(self) -> Space:
        """The space."""
        workload = Workload(
            model=model_preset(self.model),
            seq_len=self.seq_len,
            global_batch=self.batch,
            framework=NO_OVERHEAD,
        )
        return make_space(workload, cluster_preset(self.cluster), self.constraints)


FOUR = Constraints(schedule=("1f1b", "interleaved-1f1b", "zb-h1", "zb-v"))
GPT3 = {"model": "gpt3-175b", "cluster": "1024xa100-80gb", "seq_len": 2048, "batch": 1536}
EVERY = Range()
BOTH = (False, True)
VARIED = Constraints(
    recomputed_layers=EVERY,
    shard_group=EVERY,
    gradient_dtype=("as computed", "fp32"),
    overlap_gradient_reduction=BOTH[::-1],
    overlap_tensor_parallel=BOTH,
    offload_optimizer=BOTH,
    offload_activations=BOTH,
)
SEARCHED = (
    Searched(name="GPT-3 175B, 1,024 A100, 4 schedules", constraints=FOUR, **GPT3),  # type: ignore[arg-type]
    Searched(name="GPT-3 175B, 1,024 A100", constraints=Constraints(), **GPT3),  # type: ignore[arg-type]
    Searched(
        name="GPT-3 175B, 1,024 A100, with variants",
        constraints=VARIED,
        most_s=20.0,
        **GPT3,  # type: ignore[arg-type]
    ),
)
SMALL = (
    Searched(
        name="Llama 3 8B on 8 A100",
        model="llama3-8b",
        cluster="8xa100-40gb",
        seq_len=2048,
        batch=16,
        constraints=Constraints(),
    ),
    Searched(
        name="Llama 3 8B on 8 A100, with variants",
        model="llama3-8b",
        cluster="8xa100-40gb",
        seq_len=2048,
        batch=16,
        constraints=replace(VARIED, batch_per_device=(1,), zero_stage=(1, 3)),
        most_s=20.0,
    ),
)


def measures(
    searched: tuple[Searched, ...] = SEARCHED,
    samples: int = 1000,
    repeats: int = 3,
    calculon: Path | None = None,
) -> Iterator[Measure]:
    """All figures, as they are found. `calculon`: a checkout of it to compare with."""
    rates: dict[str, float] = {}
    for each in searched:
        for measure in _search(each, repeats):
            yield measure
            if measure.unit == "plans/s":
                varied = ", with variants," if each.constraints.has_variants else ""
                rates[f"proven search{varied}"] = measure.value
        yield from _cold(each, most_s=max(3.0, each.most_s))
    yield from _growth(repeats)
    exact = _all_exact(searched[0], repeats)
    yield exact
    rates["every plan that fits, exactly,"] = exact.value
    yield from _violations(searched, samples)
    yield from _ap(repeats)
    if calculon is not None:
        yield from _against_calculon(calculon, rates)


def _against_calculon(checkout: Path, rates: Mapping[str, float]) -> Iterator[Measure]:
    """Rates beside those of Calculon, without and with its logging; targets hold without it."""
    for logging, muted in (("its logger muted", True), ("as it is", False)):
        peer = calculon_rate(checkout, muted=muted)
        yield Measure(what=f"Calculon, {logging}, one process", value=peer, unit="plans/s")
        for name, rate in rates.items():
            least = 15 if "exactly" in name else 300
            yield Measure(
                what=f"{name} against Calculon, {logging}",
                value=rate / peer,
                unit="x",
                target=f"at least {least}" if muted else "",
            )


def _search(searched: Searched, repeats: int) -> Iterator[Measure]:
    space = searched.space()
    name = searched.name
    seconds = cpu_s(lambda: run_planner("branch-and-bound", space), repeats)
    shared = SharedCosts(space.workload, space.cluster)
    report = run_planner("branch-and-bound", space, shared=shared)
    again = cpu_s(lambda: run_planner("branch-and-bound", space, shared=shared), repeats)
    yield Measure(what=name, value=len(space), unit="plans")
    yield Measure(
        what=f"{name}, warm", value=seconds, unit="s", target=f"at most {searched.most_s:g} s"
    )
    yield Measure(what=f"{name}, costs known", value=again, unit="s")
    yield Measure(what=name, value=len(space) / seconds, unit="plans/s")
    yield Measure(what=name, value=report.num_asked, unit="evaluations")
    yield Measure(what=name, value=float(report.proven), unit="proven", target="1")


def _all_exact(searched: Searched, repeats: int) -> Measure:
    """Plans of a space per CPU second where each that fits is timed exactly; lists are known."""
    space = searched.space()
    shared = SharedCosts(space.workload, space.cluster)
    kernel: Kernel = "auto" if compiled_loops(load=True) is None else "numba"
    all_steps_s(space, shared=shared, kernel=kernel)
    seconds = cpu_s(lambda: all_steps_s(space, shared=shared, kernel=kernel), repeats)
    what = f"{searched.name}, each that fits exactly"
    return Measure(what=what, value=len(space) / seconds, unit="plans/s")


def _growth(repeats: int) -> Iterator[Measure]:
    """How much longer a search takes for many layers and for a large batch than for usual ones."""
    model, cluster = model_preset("llama3-70b"), cluster_preset("1024xh100")

    def seconds(num_layers: int, batch: int) -> float:
        own = replace(model, num_layers=num_layers)
        workload = Workload(model=own, seq_len=4096, global_batch=batch)
        space = full_space(workload, cluster, Options())
        return cpu_s(lambda: run_planner("branch-and-bound", space), repeats)

    usual = seconds(80, 1024)
    for what, many in (
        ("1,280 layers over 80", seconds(1280, 1024)),
        ("batch 262,144 over 1,024", seconds(80, 262_144)),
    ):
        yield Measure(what=what, value=many / usual, unit="x", target="at most 2")


def _cold(searched: Searched, most_s: float) -> Iterator[Measure]:
    """A process of its own, from its start to the proven optimum."""
    module, name = __name__, searched.name
    place = [s.name for s in (*SEARCHED, *SMALL)].index(name)
    code = (
        f"import {module} as b; from parplan.planners.search.run import run_planner; "
        f"s = (*b.SEARCHED, *b.SMALL)[{place}]; "
        f"raise SystemExit(not run_planner('branch-and-bound', s.space()).proven)"
    )
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True)
    seconds = time.perf_counter() - start
    yield Measure(
        what=f"{name}, cold process", value=seconds, unit="s", target=f"at most {most_s:g} s"
    )


def _violations(searched: tuple[Searched, ...], samples: int) -> Iterator[Measure]:
    """Plans whose exact step is shorter than their bound, where memory rules none out."""
    found, total, lowest = 0, 0, 1.0
    for number, each in enumerate(searched):
        # What does not divide goes to the first.
        own = samples // len(searched) + (number < samples % len(searched))
        bounds, steps = bounds_and_steps(each.space(), own)
        found += int((bounds > steps).sum())
        total += len(steps)
        lowest = min(lowest, float((bounds / steps).mean()))
    yield Measure(what="plans sampled", value=total, unit="plans")
    yield Measure(what="bounds above their step", value=found, unit="plans", target="0")
    yield Measure(what="bound over step, mean of a space", value=lowest, unit="")


def bounds_and_steps(
    space: Space, samples: int, most_actions: int = MOST_ACTIONS
) -> tuple[np.ndarray, np.ndarray]:
    """Bound and exact step in seconds of plans drawn by chance, of those with short lists.

    Where plans have variants, the bound is that of all variants of a plan. Memory rules none out.
    Raises `ParplanError` where no list is so short.
    """
    shared = SharedCosts(space.workload, space.cluster)
    table = SpaceTable(space, float("inf"), shared.parts_of(space.constraints))
    bounds = table.bounds()
    rng = Random(SEED)
    drawn: dict[tuple[str, int, int, int], list[tuple[int, Plan]]] = {}
    rows: dict[int, Plan] = {}
    tries = 0
    while sum(map(len, drawn.values())) < samples:
        tries += 1
        if tries > 1000 * samples:
            raise ParplanError(f"bounds: no plan has lists of at most {most_actions} actions")
        row = rng.randrange(space.num_rows)
        plan = rows[row] = rows.get(row) or space.row(row)
        if 2 * plan.total_stages * plan.num_micro_batches <= most_actions:
            drawn.setdefault(schedule_key(plan), []).append((row, plan))
    low, exact = [], []
    for (name, ranks, virtual, count), pairs in drawn.items():
        numbers = [row for row, _ in pairs]
        tape = lower(make_program(name, ranks, count, virtual))
        low.append(bounds[numbers])
        if space.constraints.has_variants:
            plans = [_variant(space, row, rng) for row in numbers]
            costs = stage_ticks([shared.stages(plan).costs for plan in plans])
        else:
            costs = table.costs(numbers, [plan for _, plan in pairs])
        exact.append(fast_many(tape, costs))
    return np.concatenate(low), np.concatenate(exact)


def _variant(space: Space, row: int, rng: Random) -> Plan:
    """One of the plans of a row, each as likely."""
    box = space.box(row)
    if box is None:
        return space.row(row)
    values = {name: (rng.choice(own),) for name, own in box._asdict().items()}
    return space.only(row, Box(**values))


def _ap(repeats: int) -> Iterator[Measure]:
    """The reference case of AP, on one core."""
    workload = Workload(
        model=model_preset("llama2-13b"), seq_len=1024, global_batch=64, framework=NO_OVERHEAD
    )
    cluster = cluster_preset("4xLarge.2048GB")
    plans = ap_candidates(workload, cluster, Options())
    exhaustive(workload, cluster, plans)
    seconds = cpu_s(lambda: exhaustive(workload, cluster, plans), repeats)
    what = f"reference case of AP, {len(plans)} candidates"
    yield Measure(what=what, value=seconds * 1e3, unit="ms")
    yield Measure(what=what, value=AP_S / seconds, unit="x AP", target="at least 100")


def calculon_rate(checkout: Path, seconds: float = 20.0, *, muted: bool = True) -> float:
    """Plans per CPU second of Calculon's search for GPT-3 175B on 1,024 A100, on one process.

    Its own search over its own space, of which parts are drawn until the time is over. Its models
    of layers and of pipelines are not those of parplan. `muted`: without the debug records that it
    makes of every layer. Raises `ParplanError` where it fails.
    """
    logging = "muted" if muted else "stock"
    command = [sys.executable, str(PEER), str(checkout), str(seconds), str(SEED), logging]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise ParplanError(f"calculon: {checkout}: {last}")
    found = json.loads(done.stdout.strip().splitlines()[-1])
    return float(found["executions"] / found["seconds"])
