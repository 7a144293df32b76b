"""Fifty jobs, and what a search of each finds, to compare two states of the code.

`python tests/planners/bounds/fifty_jobs.py > before.txt` writes a line for each: every float as its
bits, so that `diff before.txt after.txt` is empty only if results are equal to the bit.
"""

import hashlib
import sys
from itertools import islice
from typing import NamedTuple

from parplan.hardware.machines.presets import cluster_preset
from parplan.planners.costs.cost_cache import SharedCosts
from parplan.planners.search.budget import Budget
from parplan.planners.search.run import SearchReport, run_planner
from parplan.planners.spaces.everything import coarse_part, everything
from parplan.planners.spaces.make import make_space
from parplan.sim.models.model import model_preset
from parplan.sim.workload import Workload


class Job(NamedTuple):
    """A model, a cluster, tokens of a sequence, and sequences of a step."""

    model: str
    cluster: str
    seq_len: int
    batch: int


_MODELS = (
    *(
        "gpt2-small",
        "gpt3-1.3b",
        "llama3.2-3b",
        "bloom-7b1",
        "gemma2-9b",
        "mistral-7b",
        "qwen3-14b",
    ),
    *("gpt-neox-20b", "falcon-40b", "mixtral-8x7b", "qwen3-30b-a3b", "deepseek-v2-lite"),
    *("llama3-8b", "gpt-oss-20b", "gpt3-13b", "mpt-30b", "llama3-70b"),
)
_CLUSTERS = ("8xh100", "16xa100", "12xh100", "7xh100", "32xb200", "64xmi300x", "2xdgx-h100")
_SIZES = ((2048, 32), (4096, 48), (8192, 16), (1024, 128), (16384, 8))

JOBS = tuple(
    Job(
        *(_MODELS[i % len(_MODELS)], _CLUSTERS[i % len(_CLUSTERS)]),
        *_SIZES[i * 3 % len(_SIZES)],
    )
    for i in range(50)
)


def search(job: Job, most_s: float | None = None) -> SearchReport:
    """The default search: first of a small part, then of all, up to a gap, and near plans."""
    cluster, model = cluster_preset(job.cluster), model_preset(job.model)
    seq_len = min(job.seq_len, model.learned_positions or job.seq_len)
    workload = Workload(model=model, seq_len=seq_len, global_batch=job.batch)
    space = make_space(workload, cluster, everything(workload, cluster))
    part = make_space(workload, cluster, coarse_part(space.constraints))
    shared = SharedCosts(workload, cluster)
    begun = run_planner("branch-and-bound", part, budget=Budget(gap=0.01), shared=shared)
    first = () if begun.best is None else (begun.best.plan,)
    budget = Budget(gap=0.01, near=0.03, first=first, seconds=most_s)
    return run_planner("branch-and-bound", space, budget=budget, shared=shared, with_gap=True)


def figures(report: SearchReport) -> str:
    """All that a search found, in one line."""
    trials = hashlib.sha256(repr(report.trials).encode()).hexdigest()[:16]
    best = report.best
    numbers = (report.gap, report.untried_from, *((best.step_s,) if best else ()))
    found = " ".join("none" if x is None else float(x).hex() for x in numbers)
    counts = f"{report.num_asked} of {report.space_size}, {report.num_bounds} bounds"
    return f"{found} {counts}, {len(report.trials)} trials {trials}, proven {report.proven}"


if __name__ == "__main__":
    for number, job in islice(enumerate(JOBS), *map(int, sys.argv[1:3])):
        sys.stdout.write(f"{number} {' '.join(map(str, job))} {figures(search(job))}\n")
        sys.stdout.flush()
