"""Plans under noise and stragglers."""

import pytest

from parplan.errors import ParplanError
from parplan.hardware.machines.presets import cluster_preset
from parplan.planners.costs.trial import Trial
from parplan.planners.explain.robust import Disturbance, robust_order
from parplan.planners.search.exhaustive import exhaustive
from parplan.planners.spaces.constraints import Constraints
from parplan.planners.spaces.make import make_space
from parplan.sim.models.model import model_preset
from parplan.sim.plan import Plan
from parplan.sim.software.framework import NO_OVERHEAD
from parplan.sim.workload import Workload

WORKLOAD = Workload(
    model=model_preset("llama3-8b"), seq_len=2048, global_batch=16, framework=NO_OVERHEAD
)
CLUSTER = cluster_preset("8xa100-80gb")
FEW = Constraints(batch_per_device=(1,), zero_stage=(1,), virtual_stages=(1,), num_stages=(1, 2, 4))
TRIALS = exhaustive(WORKLOAD, CLUSTER, list(make_space(WORKLOAD, CLUSTER, FEW))).trials


def test_without_a_disturbance_steps_are_as_predicted() -> None:
    found = robust_order(WORKLOAD, CLUSTER, TRIALS, Disturbance(), samples=3)
    steps = [trial.step_s for trial in TRIALS if trial.step_s is not None]
    assert [spread.trial.step_s for spread in found] == sorted(steps)[:10]
    for spread in found:
        assert spread.steps_s == (spread.trial.step_s,) * 3
        assert spread.quantile_s(0.9) == spread.mean_s == spread.trial.step_s


def test_more_of_a_disturbance_takes_more_time() -> None:
    means = [
        sum(s.mean_s for s in robust_order(WORKLOAD, CLUSTER, TRIALS, each, samples=8))
        for each in (
            Disturbance(),
            Disturbance(straggler_factor=1.3, straggler_share=0.5),
            Disturbance(straggler_factor=1.3, straggler_share=1.0),
            Disturbance(straggler_factor=1.3, straggler_share=1.0, noise=0.2),
        )
    ]
    assert means == sorted(set(means))


def test_a_seed_says_it_all() -> None:
    each = Disturbance(noise=0.1, straggler_factor=1.5, straggler_share=0.2)
    one, two, other = (
        robust_order(WORKLOAD, CLUSTER, TRIALS, each, top=3, samples=4, seed=seed)
        for seed in (1, 1, 2)
    )
    assert one == two
    assert one != other
    assert [s.mean_s for s in one] == sorted(s.mean_s for s in one)


def test_replicas_wait_for_the_slowest() -> None:
    """Every replica draws: with more of them the slowest is slower."""
    by_replicas = {t.plan.data_parallel: t for t in TRIALS if t.fits and t.plan.num_stages == 1}
    noisy = Disturbance(noise=0.3)
    excess = {}
    for count, trial in by_replicas.items():
        (spread,) = robust_order(WORKLOAD, CLUSTER, [trial], noisy, samples=40)
        excess[count] = spread.mean_s / (trial.step_s or 1.0)
    assert len(excess) > 1
    assert excess[max(excess)] > excess[min(excess)]


def test_what_cannot_be() -> None:
    with pytest.raises(ParplanError, match="0 possible plans"):
        robust_order(WORKLOAD, CLUSTER, [Trial(plan=Plan(), reason="no")], Disturbance())
    with pytest.raises(ParplanError, match="the share from 0 to 1"):
        Disturbance(straggler_share=2.0)
