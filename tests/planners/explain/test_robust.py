"""Plans under noise and stragglers."""

import pytest

from parplan.errors import ParplanError
from parplan.hardware.machines.presets import cluster_preset
from parplan.planners.costs.trial import Trial
from parplan.planners.explain.robust import Disturbance, expected_step
from parplan.planners.search.exhaustive import exhaustive
from parplan.planners.spaces.constraints import Constraints
from parplan.planners.spaces.make import make_space
from parplan.sim.models.model import model_preset
from parplan.sim.software.framework import NO_OVERHEAD
from parplan.sim.workload import Workload

WORKLOAD = Workload(
    model=model_preset("llama3-8b"), seq_len=2048, global_batch=16, framework=NO_OVERHEAD
)
CLUSTER = cluster_preset("8xa100-80gb")
FEW = Constraints(batch_per_device=(1,), zero_stage=(1,), virtual_stages=(1,), num_stages=(1, 2, 4))
TRIALS = exhaustive(WORKLOAD, CLUSTER, list(make_space(WORKLOAD, CLUSTER, FEW))).trials
TIMED = [trial for trial in TRIALS if trial.fits]


def expected_s(disturbance: Disturbance, trials: list[Trial], **how: int) -> list[float]:
    goal = expected_step(WORKLOAD, CLUSTER, disturbance, **how)
    return [goal.key(trial) for trial in trials]


def test_without_a_disturbance_steps_are_as_predicted() -> None:
    assert len(TIMED) > 3
    assert expected_s(Disturbance(), TIMED, samples=2) == [trial.step_s for trial in TIMED]


def test_more_of_a_disturbance_takes_more_time() -> None:
    sums = [
        sum(expected_s(each, TIMED, samples=8))
        for each in (
            Disturbance(),
            Disturbance(straggler_factor=1.3, straggler_share=0.5),
            Disturbance(straggler_factor=1.3, straggler_share=1.0),
            Disturbance(straggler_factor=1.3, straggler_share=1.0, noise=0.2),
        )
    ]
    assert sums == sorted(set(sums))


def test_a_seed_says_it_all() -> None:
    each = Disturbance(noise=0.1, straggler_factor=1.5, straggler_share=0.2)
    one, two, other = (expected_s(each, TIMED, samples=4, seed=seed) for seed in (1, 1, 2))
    assert one == two
    assert one != other


def test_replicas_wait_for_the_slowest() -> None:
    """Every replica draws: with more of them the slowest is slower."""
    by_replicas = {t.plan.data_parallel: t for t in TIMED if t.plan.num_stages == 1}
    noisy = Disturbance(noise=0.3)
    excess = {}
    for count, trial in by_replicas.items():
        (mean_s,) = expected_s(noisy, [trial], samples=40)
        excess[count] = mean_s / (trial.step_s or 1.0)
    assert len(excess) > 1
    assert excess[max(excess)] > excess[min(excess)]


def test_what_cannot_be() -> None:
    with pytest.raises(ParplanError, match="the share from 0 to 1"):
        Disturbance(straggler_share=2.0)
