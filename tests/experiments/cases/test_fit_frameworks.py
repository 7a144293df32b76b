"""Fits of frameworks: eager ones are never the faster ones, and kernels never faster than alone."""

import dataclasses
import random

import pytest

from parplan.errors import ParplanError
from parplan.experiments.cases.evaluate import evaluate
from parplan.experiments.cases.fit import (
    CONSTANTS,
    FASTER,
    SHORTENS,
    SLOWER,
    fit_framework,
    fit_frameworks,
    not_faster_than,
    starting_framework,
)
from parplan.experiments.cases.read import Case
from parplan.hardware.machines.presets import cluster_preset
from parplan.planners.spaces.make import make_space
from parplan.sim.models.model import model_preset
from parplan.sim.prediction.predict import compile_plan, predict
from parplan.sim.software.framework import framework
from parplan.sim.workload import Workload
from tests.experiments.cases.published_cases import case


def measured(ratio: float, **changes: object) -> Case:
    """A run that took `ratio` times as long as predicted."""
    one = case(**changes)
    done = evaluate(one)
    assert done.step_s is not None
    return dataclasses.replace(
        one, measured=dataclasses.replace(one.measured, step_time_s=ratio * done.step_s)
    )


def test_kernels_of_a_fit_are_not_faster_than_alone() -> None:
    """Runs that took less than their kernels do make everything else free, and no more."""
    found = fit_framework("fused", [measured(0.5)])
    assert found.kernel_slowdown == pytest.approx(1.0, abs=1e-6)


def test_a_fit_of_the_slower_framework_stays_beyond_the_faster_one() -> None:
    fast = dataclasses.replace(framework(FASTER), kernel_slowdown=1.2, hidden_share=0.1)
    found = fit_framework(SLOWER, [measured(0.7)], bounds=not_faster_than(fast))
    for constant in CONSTANTS:
        own, other = getattr(found, constant.name), getattr(fast, constant.name)
        more, less = (other, own) if constant.name in SHORTENS else (own, other)
        assert more >= less - 1e-6 * constant.start, constant.name


def test_without_a_run_constants_are_where_a_search_starts() -> None:
    assert fit_frameworks({SLOWER: [], FASTER: []}) == {
        SLOWER: starting_framework(SLOWER),
        FASTER: starting_framework(FASTER),
    }
    with pytest.raises(ParplanError, match="no case to fit to"):
        fit_framework(FASTER, [])


JOBS = [
    ("gpt2-small", "8xa100", 1024, 64),
    ("llama3-8b", "8xh100", 4096, 32),
    ("mixtral-8x7b", "64xh100", 4096, 128),
]


@pytest.mark.parametrize(("model", "machine", "seq_len", "batch"), JOBS)
def test_the_slower_framework_is_slower_in_every_job(
    model: str, machine: str, seq_len: int, batch: int
) -> None:
    cluster, draw = cluster_preset(machine), random.Random(f"{model} {machine}")
    slow, fast = (
        Workload(
            model=model_preset(model),
            seq_len=seq_len,
            global_batch=batch,
            framework=framework(name),
        )
        for name in (SLOWER, FASTER)
    )
    space = make_space(slow, cluster)
    for _ in range(8):
        plan = space.sample(draw)
        slow_s, fast_s = (predict(compile_plan(w, cluster, plan)).step_s for w in (slow, fast))
        assert slow_s >= fast_s, plan
