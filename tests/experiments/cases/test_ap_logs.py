"""The published logs of Advanced Parallelization by the stack that is fitted to them."""

import dataclasses
from functools import cache

import numpy as np
import pytest

from parplan._strict import read_toml
from parplan.errors import ParplanError
from parplan.experiments.cases.ap_logs import LogVerdicts, all_logs, on_platform, verdicts_of
from parplan.experiments.fits import ap_fit
from parplan.experiments.fits.ap_fit import (
    EXACT,
    MEMORY,
    NEAR,
    TIME,
    WIDTH,
    errors_of,
    fit_platform,
    memory_cost,
    platform_toml,
    time_cost,
)
from parplan.experiments.fits.ap_terms import LogTerms, check_terms, log_terms
from parplan.hardware.machines.presets import cluster_preset
from parplan.planners.ap.possible import counted_as, is_flavor, num_counted
from parplan.sim.plan import Plan
from parplan.sim.software.presets import MOAI

REFERENCE = "ap-example-llama2-13b-4x"


@cache
def verdicts() -> tuple[LogVerdicts, ...]:
    return tuple(verdicts_of(log, on_platform(log)) for log in all_logs())


def test_the_counts_of_possible_candidates_are_the_published_ones_within_one() -> None:
    off = {
        (own.log.id, own.log.rule): num_counted(own.trials, own.log.rule) - own.log.num_possible
        for own in verdicts()
    }
    assert len(off) == 16
    assert max(map(abs, off.values())) <= 1
    assert sum(value == 0 for (_, rule), value in off.items() if rule == "24.5") >= 5
    assert sum(value == 0 for (_, rule), value in off.items() if rule != "24.5") >= 6
    assert off[REFERENCE, "24.3"] == 0


def test_their_choice_is_the_fastest_or_a_tie_in_most_logs() -> None:
    close = 0
    for own in verdicts():
        choice, best = own.choice, own.best
        assert choice.fits, own.log.id
        assert best is not None
        assert best.step_s
        assert choice.step_s
        close += choice.step_s <= 1.01 * best.step_s
    assert close >= 14


def test_steps_and_readings_of_memory_are_close_in_the_median() -> None:
    steps, readings = [], []
    for own in verdicts():
        if own.log.step_s is not None:
            steps.append(abs((own.choice.step_s or 0.0) / own.log.step_s - 1))
        if own.log.memory_gib is not None:
            readings.append(abs(max(own.choice.memory_bytes) / 2**30 / own.log.memory_gib - 1))
    assert (len(steps), len(readings)) == (6, 10)
    assert np.median(steps) < 0.10
    assert np.median(readings) < 0.20


def test_earlier_releases_count_pipelines_of_a_micro_batch_size_once() -> None:
    pipelines = [Plan(num_stages=s, num_micro_batches=4, batch_per_device=1) for s in (2, 4)]
    single = [Plan(batch_per_device=1), Plan(batch_per_device=1, recomputation="full")]
    assert len({counted_as(plan, "24.3") for plan in (*pipelines, *single)}) == 3
    assert len({counted_as(plan, "24.5") for plan in (*pipelines, *single)}) == 4


@pytest.mark.parametrize(
    ("name", "is_one"), [("4xLarge.2048GB", True), ("Small.64GB", True), ("8xh100", False)]
)
def test_flavors_are_known_by_their_names(name: str, is_one: bool) -> None:
    assert is_flavor(cluster_preset(name)) is is_one


def test_nothing_is_fitted_to_a_log_that_is_held_out() -> None:
    log = all_logs()[0]
    held_out = type(log)(**{f: getattr(log, f) for f in log.__slots__} | {"fitted": False})
    with pytest.raises(ParplanError, match=f"{REFERENCE}: held out"):
        fit_platform([held_out])


@cache
def terms() -> tuple[LogTerms, ...]:
    some = [log for log in all_logs() if log.id in (REFERENCE, "gpt-13b-4x-24.5")]
    return tuple(log_terms(log, NEAR, WIDTH) for log in some)


def shipped() -> dict[str, float]:
    table = read_toml(MOAI)["moai"]
    return {name: table[name]["value"] for name in (*MEMORY, *TIME)}


def test_needs_and_steps_are_sums_of_terms_in_the_constants() -> None:
    for own in terms():
        assert check_terms(own, shipped()) < EXACT
        # Far from where the terms come from, too.
        other = {
            name: (0.6 if number % 2 else 1.5) * NEAR[name] for number, name in enumerate(NEAR)
        }
        assert check_terms(own, other) < EXACT
        bent = dataclasses.replace(own, of_steps=1.001 * own.of_steps)
        assert check_terms(bent, other) > EXACT


def test_the_preset_is_what_the_fit_gives_as_text() -> None:
    fitted = [log for log in all_logs() if log.fitted]
    assert platform_toml(shipped(), fitted) == MOAI.read_text()


def test_constants_lie_within_what_they_can_be() -> None:
    for name, value in shipped().items():
        low, high = (MEMORY | TIME)[name]
        assert low <= value <= high


@pytest.mark.long
def test_no_constant_alone_would_explain_the_logs_better() -> None:
    """The shipped constants are a minimum of what the fit minimizes, on all logs."""
    every = [log_terms(log, NEAR, WIDTH) for log in all_logs() if log.fitted]
    found = shipped()
    needs = [own.needs(found) for own in every]
    for bounds, cost in (
        (MEMORY, lambda c: memory_cost(every, c)),
        (TIME, lambda c: time_cost(every, needs, c)),
    ):
        (least,) = cost({name: np.array([found[name]]) for name in bounds})
        for name, (low, high) in bounds.items():
            near = np.clip(found[name] * np.array([0.5, 0.7, 0.85, 1.15, 1.4, 2.0]), low, high)
            tried = {other: np.full(len(near), found[other]) for other in bounds} | {name: near}
            assert (cost(tried) >= least - 1e-9).all(), name


def test_a_fit_to_some_logs_says_how_it_explains_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ap_fit, "GENERATIONS", 2)
    lines: list[str] = []
    some = [log for log in all_logs() if log.id.startswith("gpt-13b-")][1:]
    found = fit_platform(some, lines.append)
    assert list(found) == [*MEMORY, *TIME]
    assert found == fit_platform(some)
    assert lines[1].startswith("fitted: 2 logs; possible: the published number in ")
    assert lines[2].startswith("each by constants fitted to the others: 2 logs; ")


def test_a_choice_that_is_slower_and_a_count_that_is_off_cost_more() -> None:
    reference = terms()[0]
    found = {name: np.array([value]) for name, value in shipped().items()}
    needs = [reference.needs(found)]
    late = dataclasses.replace(
        reference,
        of_steps=np.where(reference.is_choice[:, None], 1.3, 1.0) * reference.of_steps,
    )
    assert time_cost([late], needs, found) > time_cost([reference], needs, found)
    larger = dataclasses.replace(reference, of_needs=1.3 * reference.of_needs)
    assert memory_cost([larger], found) > memory_cost([reference], found)
    assert errors_of(reference, shipped()).miscounted == 0
    assert errors_of(larger, shipped()).miscounted < 0
