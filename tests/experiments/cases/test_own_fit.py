"""Constants that are fitted to own runs: recovered where they are known, held out as stated."""

import dataclasses
import random

import numpy as np
import pytest

from parplan.errors import ParplanError
from parplan.experiments.cases.own.checked import fit_checked
from parplan.experiments.cases.own.constants import (
    COUNT,
    OWN_CONSTANTS,
    limits,
    setting_at,
    standard_errors,
    value_of,
)
from parplan.experiments.cases.own.fit import (
    FOLDS,
    LEAVE_ONE_OUT_TO,
    OwnFit,
    configuration,
    fit_own,
    held_out_parts,
)
from parplan.experiments.cases.own.machine_factors import MachineSetting
from parplan.experiments.cases.own.next import neighbours, proposals
from parplan.experiments.cases.own.runs import OwnRun, own_run, shipped_setting
from tests.experiments.cases.published_cases import case

NUMBER = {constant.name: i for i, constant in enumerate(OWN_CONSTANTS)}


def one_run(**changes: object) -> OwnRun:
    """Of a model on two nodes, so that there is a network."""
    base: dict[str, object] = {
        "model__hidden": 2048,
        "model__layers": 8,
        "hardware__n_accelerators": 16,
        "parallel__dp": None,
        "parallel__global_batch": 64,
    }
    return own_run(case(**{**base, **changes}))


def different_runs() -> list[OwnRun]:
    """Eight plans that differ in size, split and recomputation."""
    changes: list[dict[str, object]] = [
        {"parallel__tp": 1},
        {"parallel__tp": 8},
        {"parallel__tp": 2, "parallel__pp": 4},
        {"parallel__tp": 4, "parallel__recompute": "full"},
        {"parallel__tp": 1, "parallel__global_batch": 16, "parallel__micro_batch": 1},
        {"parallel__tp": 1, "model__seq_len": 4096},
        {"parallel__tp": 2, "model__hidden": 4096, "parallel__global_batch": 128},
        {"parallel__tp": 2, "parallel__pp": 8, "parallel__micro_batch": 1},
    ]
    return [one_run(id=f"run-{i}", **change) for i, change in enumerate(changes)]


def point(**widths: float) -> np.ndarray:
    found = np.zeros(COUNT)
    for name, z in widths.items():
        found[NUMBER[name]] = z
    return found


def measured(runs: list[OwnRun], truth: MachineSetting, noise: float = 0.0) -> list[OwnRun]:
    """`runs` with the steps that they have under `truth`, times a random factor."""
    draw = random.Random(0)
    return [timed(run, run.predicted_s(truth) * (1 + draw.gauss(0, noise))) for run in runs]


def timed(run: OwnRun, step_s: float) -> OwnRun:
    own = dataclasses.replace(run.case.measured, step_time_s=step_s)
    return dataclasses.replace(run, case=dataclasses.replace(run.case, measured=own))


@pytest.mark.parametrize(
    ("truth", "noise"),
    [
        ({"products_factor": -1.5}, 0.0),
        ({"step_s": 2.0}, 0.02),
        ({"step_s": 1.5, "products_factor": -1.0, "network_factor": -1.0}, 0.0),
        ({"kernel_slowdown": 1.0, "step_s": 1.0}, 0.02),
    ],
)
def test_known_constants_are_recovered(truth: dict[str, float], noise: float) -> None:
    runs = different_runs()
    start = shipped_setting(runs)
    true = setting_at(start, point(**truth))
    checked = fit_checked(measured(runs, true, noise))
    fit = checked.fit
    errors = standard_errors(fit.setting, fit.covariance)
    for i in fit.moved:
        off = value_of(fit.setting, OWN_CONSTANTS[i]) - value_of(true, OWN_CONSTANTS[i])
        # Of noise one draw is seen, which two standard errors hold in 95 of 100.
        assert abs(off) <= (2 if noise else 1) * errors[i], OWN_CONSTANTS[i].name
    assert checked.is_better
    assert checked.setting == fit.setting
    assert np.mean(np.abs(checked.fitted)) < 0.3 * np.mean(np.abs(checked.shipped))


def test_the_shipped_constants_stay_where_they_are_right() -> None:
    runs = different_runs()
    start = shipped_setting(runs)
    fit = fit_own(measured(runs, start))
    assert fit.point == pytest.approx(np.zeros(COUNT), abs=1e-6)


def test_what_the_runs_do_not_tell_does_not_move() -> None:
    # One node: no network. No experts. One stage: no messages.
    changes = (
        {"parallel__micro_batch": size, "parallel__tp": tp} for size in (1, 2) for tp in (1, 2)
    )
    runs = [one_run(id=f"{c}", hardware__n_accelerators=8, **c) for c in changes]
    runs.append(one_run(id="more", hardware__n_accelerators=8, parallel__global_batch=128))
    true = setting_at(shipped_setting(runs), point(step_s=1.0))
    fit = fit_own(measured(runs, true))
    names = {OWN_CONSTANTS[i].name for i in fit.moved}
    assert names
    assert not names & {"network_factor", "expert_layer_s", "message_s"}
    unmoved = [i for i in range(COUNT) if i not in fit.moved]
    assert not fit.point[unmoved].any()
    for name in ("network_factor", "expert_layer_s", "message_s"):
        # Nothing is learnt: the whole width of the prior is left.
        assert fit.covariance[NUMBER[name], NUMBER[name]] == pytest.approx(1.0)


def test_more_runs_leave_less_unknown() -> None:
    runs = different_runs()
    some = fit_own(measured(runs[:5], shipped_setting(runs)))
    all_ = fit_own(measured(runs, shipped_setting(runs)))
    assert (np.diag(all_.covariance) <= np.diag(some.covariance) + 1e-12).all()


def test_one_run_that_is_not_understood_does_not_bend_the_rest() -> None:
    runs = different_runs()
    start = shipped_setting(runs)
    own = measured(runs, start)
    own[0] = timed(own[0], 5 * (own[0].case.step_s or 0.0))
    fit = fit_own(own)
    for run in own[1:]:
        assert run.case.step_s == pytest.approx(run.predicted_s(fit.setting), rel=0.15)


def test_constants_stay_within_their_bounds() -> None:
    start = shipped_setting(different_runs()[:1])
    low, high = limits(start)
    for end in (low - 1, high + 1):
        for constant in OWN_CONSTANTS:
            value = value_of(setting_at(start, end), constant)
            assert constant.least <= value <= constant.most


def test_every_run_is_held_out_once_and_repetitions_together() -> None:
    runs = different_runs()
    again = dataclasses.replace(runs[2], case=dataclasses.replace(runs[2].case, id="again"))
    parts = held_out_parts([*runs, again])
    assert sorted(i for part in parts for i in part) == list(range(9))
    assert len(parts) == len(runs)
    assert [2, 8] in parts


def test_many_configurations_are_dealt_in_order() -> None:
    runs = [
        one_run(parallel__global_batch=64 * i, parallel__tp=1)
        for i in range(1, LEAVE_ONE_OUT_TO + 2)
    ]
    assert len(set(map(configuration, runs))) == len(runs)
    parts = held_out_parts(runs)
    assert parts == [list(range(k, len(runs), FOLDS)) for k in range(FOLDS)]


def test_a_run_that_is_held_out_does_not_change_its_own_prediction() -> None:
    runs = different_runs()
    own = measured(runs, setting_at(shipped_setting(runs), point(products_factor=-1.0)))
    changed = [timed(own[0], 2 * (own[0].case.step_s or 0.0)), *own[1:]]
    for before, after in ((fit_checked(own), fit_checked(changed)),):
        # The prediction is the same, the measurement twice as long.
        assert 1 + before.held_out[0] == pytest.approx(2 * (1 + after.held_out[0]))


def test_runs_of_several_frameworks_are_refused() -> None:
    runs = [*different_runs()[:4], one_run(group="vtrain-single", parallel__tp=1)]
    with pytest.raises(ParplanError, match=r"several stacks \(eager, fused\)"):
        fit_checked(runs)


def fit_of(*names: str) -> tuple[OwnFit, list[OwnRun]]:
    """A fit after which all but `names` is known."""
    runs = different_runs()[:1]
    start = shipped_setting(runs)
    variances = [1.0 if c.name in names else 1e-6 for c in OWN_CONSTANTS]
    fit = OwnFit(
        start=start,
        setting=start,
        point=np.zeros(COUNT),
        covariance=np.diag(variances),
        moved=(),
        noise=0.1,
    )
    return fit, runs


@pytest.mark.parametrize(("unknown", "change"), [("message_s", "pp"), ("network_factor", "tp")])
def test_what_is_measured_next_is_what_tells_most(unknown: str, change: str) -> None:
    fit, runs = fit_of(unknown)
    candidates = [
        dataclasses.replace(one_run(parallel__tp=8, parallel__pp=2).case, id="pp"),
        dataclasses.replace(one_run(parallel__tp=1, parallel__micro_batch=1).case, id="tp"),
    ]
    found = proposals(fit, runs, candidates)
    assert len(found) == 2
    assert found[0].case.id == change
    assert found[0].cause == unknown
    assert found[0].spread > found[1].spread


def test_neighbours_are_other_configurations_without_a_step_time() -> None:
    fit, runs = fit_of("step_s")
    near = neighbours(runs)
    assert all(one.step_s is None for one in near)
    found = proposals(fit, runs, [*near, runs[0].case])
    assert found
    assert runs[0].case.id not in {one.case.id for one in found}
    changes = {one.case.id.split(", ")[1].split()[0] for one in found}
    assert {"tp", "pp", "micro_batch"} <= changes
