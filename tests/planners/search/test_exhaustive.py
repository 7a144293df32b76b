"""The exhaustive search: its record, its verdicts, its choice."""

from typing import Any

import numpy as np
import pytest

from parplan.errors import ParplanError
from parplan.hardware.machines.presets import cluster_preset
from parplan.planners.search import workers as processes
from parplan.planners.search.exhaustive import exhaustive
from parplan.planners.spaces.checks import check_candidates, check_request
from parplan.planners.spaces.make import full_candidates
from parplan.planners.spaces.options import Options
from parplan.planners.spaces.space import divisors
from parplan.sim.fast.fast import fast_many
from parplan.sim.models.model import model_preset
from parplan.sim.plan import check_plan
from parplan.sim.prediction.predict import compile_plan, predict
from parplan.sim.software.framework import NO_OVERHEAD
from parplan.sim.workload import Workload

CLUSTER = cluster_preset("8xa100-40gb")
WORKLOAD = Workload(
    model=model_preset("llama3-8b"), seq_len=2048, global_batch=16, framework=NO_OVERHEAD
)
OPTIONS = Options(activation_recomputation=True, num_micro_batches=4)
CANDIDATES = full_candidates(WORKLOAD, CLUSTER, OPTIONS)


def test_every_candidate_is_in_the_report_with_its_verdict() -> None:
    report = exhaustive(WORKLOAD, CLUSTER, CANDIDATES)
    assert [trial.plan for trial in report.trials] == CANDIDATES
    limit = 0.8 * CLUSTER.accelerator.memory_bytes
    assert 0 < report.num_possible < len(CANDIDATES)
    for trial in report.trials:
        assert trial.fits == (max(trial.memory_bytes) <= limit)
        assert (trial.step_s is not None) == trial.fits
        assert ("of 33.8 GB" in trial.reason) != trial.fits


def test_the_choice_is_the_fastest_that_fits() -> None:
    report = exhaustive(WORKLOAD, CLUSTER, CANDIDATES)
    assert report.best is not None
    fastest = min(
        predict(compile_plan(WORKLOAD, CLUSTER, trial.plan)).step_s
        for trial in report.trials
        if trial.fits
    )
    assert report.best.step_s == fastest


def test_less_memory_leaves_fewer_candidates() -> None:
    counts = [
        exhaustive(WORKLOAD, CLUSTER, CANDIDATES, memory_ratio=ratio).num_possible
        for ratio in (1.0, 0.8, 0.5, 0.01)
    ]
    assert counts == sorted(counts, reverse=True)
    assert counts[0] > counts[-1] == 0


def test_when_nothing_fits_the_closest_says_what_it_needs() -> None:
    report = exhaustive(WORKLOAD, CLUSTER, CANDIDATES, memory_ratio=0.01)
    assert report.best is None
    assert report.closest is not None
    least = min(max(trial.memory_bytes) for trial in report.trials)
    assert max(report.closest.memory_bytes) == least


def test_a_choice_that_the_simulator_does_not_confirm_is_an_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def wrong(*args: Any, **kwargs: Any) -> np.ndarray:
        return fast_many(*args, **kwargs) * (1 - 1e-12)

    monkeypatch.setattr("parplan.planners.costs.plan_costs.fast_many", wrong)
    with pytest.raises(AssertionError, match=r"s simulated, .* s evaluated"):
        exhaustive(WORKLOAD, CLUSTER, CANDIDATES)


@pytest.mark.timeout(400)
def test_worker_processes_find_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "HERE_S", 0.01)
    plans = CANDIDATES
    progress: list[tuple[str, int, int]] = []
    one = exhaustive(WORKLOAD, CLUSTER, plans)
    two = exhaustive(
        WORKLOAD, CLUSTER, plans, workers=2, progress=lambda *report: progress.append(report)
    )
    assert two.trials == one.trials
    assert progress[len(plans) - 1] == ("compile", len(plans), len(plans))
    assert progress[-1] == ("simulate", one.num_possible, one.num_possible)


def test_the_full_space_lays_out_and_repeats_nothing() -> None:
    plans = full_candidates(WORKLOAD, CLUSTER, Options())
    assert len(set(plans)) == len(plans)
    for plan in plans:
        check_plan(plan, WORKLOAD, CLUSTER.num_accelerators)
    assert {p.tensor_parallel for p in plans} == {1, 2, 4, 8}
    assert {p.num_stages for p in plans} == {1, 2, 4, 8}
    assert {p.zero_stage for p in plans} == {0, 1, 2, 3}
    assert {p.recomputation for p in plans} == {"none", "selective", "full"}


def test_divisors() -> None:
    assert divisors(36) == [d for d in range(1, 37) if 36 % d == 0]


def test_requests_that_nothing_can_fulfil() -> None:
    with pytest.raises(ParplanError, match="at most 32, the layers of llama3-8b; got 64"):
        check_request(WORKLOAD, CLUSTER, Options(num_stages=64))
    uneven = Workload(model=WORKLOAD.model, seq_len=2048, global_batch=17, framework=NO_OVERHEAD)
    with pytest.raises(ParplanError, match=r"17 does not divide over 8 .* multiple of 8 does"):
        check_candidates(uneven, CLUSTER, [])
    with pytest.raises(ParplanError, match="options leave no candidate"):
        check_candidates(WORKLOAD, CLUSTER, [])
