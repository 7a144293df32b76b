"""One candidate in detail, as data for the page: bars over time, memory, time split, exports."""

from itertools import pairwise
from typing import Any

import numpy as np

from parplan.errors import ParplanError
from parplan.experiments.interop.exporters.targets import TARGETS
from parplan.experiments.planning.alternatives import grouped
from parplan.hardware.network.cluster import Cluster
from parplan.planners.explain.plan_words import plan_words
from parplan.sim.analysis.streams import with_streams
from parplan.sim.analysis.time_split import time_split
from parplan.sim.cost_model.stage_costs import message_bytes
from parplan.sim.memory.over_time import MemoryOverTime, memory_over_time
from parplan.sim.memory.peak import GB, stage_needs
from parplan.sim.plan import Plan, check_plan
from parplan.sim.prediction.predict import compile_plan, predict
from parplan.sim.run import Run
from parplan.sim.workload import Workload

MOST_RANKS = 16
"""Of more ranks, evenly spaced ones are drawn."""

PIXELS = 1500
"""Bars of a kind that are nearer than the step over this are drawn as one."""

POINTS = 400
"""Of each rank's memory curve."""

EXCHANGES = ("tensor-parallel", "context-parallel", "expert-parallel")
"""Streams within computations, which overlapped ones may lie beside."""

KINDS = {"F": "forward", "B": "backward", "I": "input backward", "W": "weight backward"}


def details(workload: Workload, cluster: Cluster, plan: Plan) -> dict[str, Any]:
    """What the page shows of a plan; raises `ParplanError` for one that cannot be laid out."""
    compiled = compile_plan(workload, cluster, plan)
    run = predict(compiled)
    split = time_split(workload, cluster, compiled, run)
    shown = _spread(run.num_ranks, MOST_RANKS)
    memory = memory_over_time(
        compiled.schedule,
        stage_needs(workload, plan),
        run,
        message_bytes=message_bytes(workload, plan),
    )
    return {
        "text": plan_words(plan),
        "step_s": run.step_s,
        "bubble": run.bubble,
        "time": [
            {"part": part, "seconds": seconds}
            for part, seconds in sorted(grouped(split).items(), key=lambda item: -item[1])
            if seconds > 0
        ],
        "num_ranks": run.num_ranks,
        "ranks": shown,
        "bars": _bars(with_streams(run, workload, cluster, plan), shown),
        "memory": [_curve(memory[rank], run.end_s) for rank in shown[:8]],
        "exports": {name: _export(workload, cluster, plan, name) for name in TARGETS},
    }


def _spread(count: int, most: int) -> list[int]:
    places = np.linspace(0, count - 1, min(count, most)).round()
    return [int(place) for place in np.unique(places)]


def _kind(stream: str, name: str) -> str:
    if stream in EXCHANGES:
        return "exchange within layers"
    if stream != "compute":
        return "data-parallel" if stream == "data-parallel" else "message"
    if name.startswith("optimizer"):
        return "optimizer"
    return KINDS.get(name.lstrip("0123456789")[:1], "other")


def _bars(run: Run, shown: list[int]) -> dict[str, Any]:
    """Bars by kind: rank, start, end, share.

    Short ones within a pixel of each other are one bar, with the share of its time that they take.
    """
    gap = run.step_s / PIXELS
    found: dict[str, list[list[float]]] = {}
    last: dict[tuple[int, str], list[float]] = {}
    is_small: dict[tuple[int, str], bool] = {}
    kept = set(shown)
    for event in sorted(run.events, key=lambda e: e.start_s):
        if event.rank not in kept or event.end_s <= event.start_s:
            continue
        kind = _kind(event.stream, event.name)
        bar = last.get((event.rank, kind))
        small = event.end_s - event.start_s < gap
        if (
            bar is not None
            and event.start_s - bar[2] < gap
            and (small or is_small[event.rank, kind])
        ):
            bar[3] += max(0.0, event.end_s - max(bar[2], event.start_s))
            bar[2] = max(bar[2], event.end_s)
            is_small[event.rank, kind] = True
            continue
        bar = [event.rank, event.start_s, event.end_s, event.end_s - event.start_s]
        last[event.rank, kind], is_small[event.rank, kind] = bar, small
        found.setdefault(kind, []).append(bar)
    return {
        kind: [
            [rank, start, end, round(busy / (end - start), 2)] for rank, start, end, busy in bars
        ]
        for kind, bars in found.items()
    }


def _curve(memory: MemoryOverTime, end_s: float) -> dict[str, Any]:
    """Time and total memory of a rank; of many points, the highest of each stretch."""
    times, total = memory.times_s, memory.total_bytes / GB
    if len(times) > POINTS:
        edges = np.linspace(0, len(times), POINTS + 1).astype(int)
        picked = [a + int(np.argmax(total[a:b])) for a, b in pairwise(edges)]
        times, total = times[picked], total[picked]
    return {
        "rank": memory.rank,
        "state_gb": memory.state.state_bytes / GB,
        "times_s": [*times.tolist(), end_s],
        "gb": [*np.round(total, 3).tolist(), float(total[-1])],
    }


def _export(workload: Workload, cluster: Cluster, plan: Plan, target: str) -> dict[str, Any]:
    try:
        check_plan(plan, workload, cluster.num_accelerators)
        found = TARGETS[target](plan, workload, cluster)
    except ParplanError as error:
        return {"error": str(error), "files": {}, "unsaid": []}
    return {"error": "", "files": found.files, "unsaid": list(found.unsaid)}
