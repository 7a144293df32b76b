"""Quick bounds are never above the tight ones, and leave the results of a search as they are."""

from dataclasses import replace

import numpy as np
import pytest

from parplan.hardware.machines.presets import cluster_preset
from parplan.planners.bounds.bounds_by_layout import BoundsByLayout
from parplan.planners.costs.cost_cache import SharedCosts
from parplan.planners.spaces.everything import everything
from parplan.planners.spaces.make import make_space
from parplan.planners.spaces.space import Space
from parplan.sim.models.model import model_preset
from parplan.sim.software.habits import TORCH
from parplan.sim.workload import Workload
from tests.planners.bounds.fifty_jobs import JOBS, Job, figures, search

ANY = 1e9
"""Seconds below which all bounds are, so that all are made tight."""

FEW = (JOBS[1], JOBS[2])
"""A dense model, and one whose layers do not divide; all are compared in the long tests."""


def bounds_of(job: Job, *, post_validation: bool = False) -> BoundsByLayout:
    cluster, model = cluster_preset(job.cluster), model_preset(job.model)
    software = replace(TORCH, post_validation=post_validation)
    workload = Workload(model=model, seq_len=job.seq_len, global_batch=job.batch, software=software)
    shared = SharedCosts(workload, cluster)
    space: Space = make_space(workload, cluster, everything(workload, cluster))
    return BoundsByLayout(space, 0.8, shared.parts_of(space.constraints), shared.moments_of)


@pytest.mark.parametrize(
    ("job", "later"),
    [
        (Job("llama3.2-3b", "12xh100", 4096, 24), False),
        (Job("llama3.2-3b", "8xh100", 4096, 24), True),
        pytest.param(JOBS[11], False, marks=pytest.mark.long),
    ],
    ids=str,
)
def test_quick_bounds_are_never_above_tight_ones(job: Job, later: bool) -> None:
    """Of the layouts with the least lower bounds, every plan, whichever schedule it has."""
    quick, tight = (bounds_of(job, post_validation=later) for _ in range(2))
    tight.__dict__["_screen"] = None
    finite = np.sort(tight.of_layouts[np.isfinite(tight.of_layouts)])
    chosen = np.argsort(tight.of_layouts, kind="stable")[:6].tolist()
    ceiling = float(2 * finite[0])
    assert quick._screen is not None
    quick.open(chosen, ceiling)
    rows = np.array(tight.open(chosen, ANY))
    assert len(rows) > 100
    assert (quick.of_plans[rows] <= tight.of_plans[rows]).all()
    below = rows[tight.of_plans[rows] < ceiling]
    assert below.tolist() == rows[quick.of_plans[rows] < ceiling].tolist()
    assert quick.of_plans[below].tolist() == tight.of_plans[below].tolist()


def test_what_is_left_out_is_what_takes_the_time() -> None:
    job = Job("llama3.2-3b", "12xh100", 4096, 24)
    quick = bounds_of(job)
    chosen = np.argsort(quick.of_layouts, kind="stable")[:12].tolist()
    rows = sum(quick.space.groups[number].size for number in chosen)
    quick.open(chosen, float(1.05 * quick.of_layouts.min()))
    assert sum(len(opened.rows) for opened in quick._tables) < rows / 4


def _compared(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    quick = figures(search(job))
    monkeypatch.setattr(BoundsByLayout, "_screen", None)
    assert quick == figures(search(job))


@pytest.mark.parametrize("job", FEW, ids=str)
def test_a_search_finds_the_same_with_and_without(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    _compared(job, monkeypatch)


@pytest.mark.long
@pytest.mark.parametrize("job", JOBS, ids=str)
def test_fifty_searches_find_the_same_with_and_without(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    _compared(job, monkeypatch)
