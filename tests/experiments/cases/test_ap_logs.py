"""The published logs of Advanced Parallelization by the stack that is fitted to them."""

from functools import cache
from pathlib import Path

import numpy as np
import pytest

from parplan._strict import read_toml
from parplan.errors import ParplanError
from parplan.experiments.cases.ap_logs import LogVerdicts, all_logs, on_platform, verdicts_of
from parplan.experiments.fits.ap_fit import MEMORY, TIME, fit_platform, platform_toml
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
    assert sum(value == 0 for (_, rule), value in off.items() if rule == "24.5") >= 6
    assert sum(value == 0 for (_, rule), value in off.items() if rule != "24.5") == 8
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


def test_the_fit_begins_with_its_start_and_writes_what_the_presets_read(tmp_path: Path) -> None:
    some = [log for log in all_logs() if log.id.startswith("gpt-13b-4x-24.5")]
    found = fit_platform(some, rounds=(1, 1))
    assert found == MEMORY | TIME
    path = tmp_path / "moai.toml"
    path.write_text(platform_toml(found, some))
    written, shipped = read_toml(path), read_toml(MOAI)
    assert {name: list(table) for name, table in written.items()} == {
        name: list(table) for name, table in shipped.items()
    }
    assert written["moai"]["selective_keeps"]["value"] == MEMORY["selective_keeps"]
