"""What is said of plans, by hand: goals, objectives, disturbances, words."""

import math
from collections import Counter
from dataclasses import replace
from statistics import mean
from typing import Any

import numpy as np
import pytest

from parplan.errors import ParplanError
from parplan.planners.costs.cost_cache import SharedCosts
from parplan.planners.costs.goal import LEAST_MEMORY, STEP_TIME, Goal
from parplan.planners.costs.objectives import (
    OBJECTIVES,
    ObjectiveInputs,
    TrainingRun,
    goal_of,
)
from parplan.planners.costs.trial import Trial
from parplan.planners.explain import robust as robust_module
from parplan.planners.explain.fidelity import Standing, bounds_level, compared, exact_level
from parplan.planners.explain.robust import Disturbance, _steps_s, expected_step
from parplan.planners.explain.uncertainty import Interval, indistinguishable, interval, pairs_like
from parplan.planners.explain.why import (
    Change,
    best_of_kinds,
    binding,
    changed_field,
    changes,
    close_trials,
    plan_label,
    without_split,
)
from parplan.sim.analysis.residuals import Pairs, Residuals
from parplan.sim.fast.fast import fast_many_ps
from parplan.sim.fast.variation import varied_durations_ps
from parplan.sim.memory.peak import GB
from parplan.sim.plan import Plan, zero_fields
from parplan.sim.step.failures import best_checkpoint_interval, expected_s
from parplan.sim.ticks import PS_PER_S, stage_ticks
from tests.planners.explain.test_objectives import CLUSTER, FAILURES, RUN, SETTING, WORKLOAD
from tests.planners.explain.test_uncertainty import H100, MI250, ratios


def trial(step_s: float | None, memory: tuple[float, ...] = (1e9,), **fields: Any) -> Trial:
    return Trial(
        plan=Plan(**{"data_parallel": 8, **fields}),
        memory_bytes=memory,
        step_s=step_s,
        reason="" if step_s else "no",
    )


def test_how_bad_a_plan_is() -> None:
    """Any that fits is better than any that does not; of these the smallest, unlaid ones last."""
    assert STEP_TIME.energy(trial(2.0)) == math.log(2.0)
    assert LEAST_MEMORY.energy(trial(2.0, (1e9, 3e9))) == math.log(3e9)
    small, large, none = (trial(None, m) for m in ((1e9, 5e9), (6e9,), ()))
    for goal in (STEP_TIME, LEAST_MEMORY):
        assert goal.energy(small) == pytest.approx(1000 + math.log(5e9))
        assert goal.energy(trial(1e9, (1e15,))) < goal.energy(small) < goal.energy(large)
        assert goal.energy(large) < goal.energy(none) == 1e6
        assert goal.key(none) == float("inf")
        assert goal.best([small, none]) is None
    first = trial(2.0, (5.0,))
    assert STEP_TIME.best([trial(3.0), first, trial(2.0, (4.0,))]) == first
    assert LEAST_MEMORY.best([trial(3.0, (9.0,)), trial(9.0, (4.0, 5.0)), first]).plan == first.plan  # type: ignore[union-attr]
    asked: list[float] = []

    def slower(trial: Trial) -> float:
        asked.append(trial.step_s or 0.0)
        return {1.0: 4.0, 2.0: 3.0, 3.5: 3.5, 2.5: 3.0}[trial.step_s or 0.0]

    goal = Goal(name="expected", key=slower, bounded_by="step")
    best = goal.best([trial(3.5), trial(2.5), trial(2.0), trial(1.0)])
    assert best == trial(2.0)
    # What takes longer undisturbed than the best takes is not asked for.
    assert set(asked) == {1.0, 2.0, 2.5}


@pytest.mark.parametrize("name", ["tokens", "price_per_hour", "checkpoint_every"])
def test_what_a_run_needs_is_above_0(name: str) -> None:
    for value in (0, -1):
        with pytest.raises(ParplanError, match=f"^{name}: must be above 0, got {value}$"):
            TrainingRun(**{name: value})  # type: ignore[arg-type]
    assert getattr(TrainingRun(**{name: 1}), name) == 1  # type: ignore[arg-type]


def test_objectives_by_hand() -> None:
    one = trial(2.0, (10e9, 20e9))
    steps = math.ceil(1e9 / (16 * 2048))
    every = best_checkpoint_interval(2.0, FAILURES)
    seconds = expected_s(2.0, steps, every, FAILURES)
    size = CLUSTER.accelerator.memory_bytes
    watts = CLUSTER.accelerator.board_power_w or 0.0
    wanted = {
        "step-time": 2.0,
        "tokens-per-accelerator": 16 * 2048 / 2.0 / 8,
        "training-time": seconds,
        "cost": 2.0 * 8 * seconds / 3600,
        "energy": watts * 8 * seconds / 3.6e6,
        "goodput": 16 * 2048 * steps / seconds,
        "head-room": 1 - 20e9 / size,
    }
    found = {name: own.value(one, SETTING) for name, own in OBJECTIVES.items()}
    assert found == pytest.approx(wanted)
    units = {name: own.unit for name, own in OBJECTIVES.items()}
    assert units == {
        **{"step-time": "s", "tokens-per-accelerator": "tokens/s", "training-time": "s"},
        **{"cost": "", "energy": "kWh", "goodput": "tokens/s", "head-room": "of memory"},
    }
    seven = ObjectiveInputs(WORKLOAD, CLUSTER, replace(RUN, checkpoint_every=7))
    by_seven = expected_s(2.0, steps, 7, FAILURES)
    assert OBJECTIVES["training-time"].value(one, seven) == by_seven
    more = {name for name, own in OBJECTIVES.items() if own.key(one, SETTING) < 0}
    assert more == {"tokens-per-accelerator", "goodput", "head-room"}
    assert goal_of("energy", SETTING) is STEP_TIME
    nothing = replace(CLUSTER, accelerator=replace(CLUSTER.accelerator, board_power_w=None))
    with pytest.raises(ParplanError, match="energy: the power of a100-sxm-40gb is not known"):
        goal_of("energy", ObjectiveInputs(WORKLOAD, nothing, RUN))
    exact = TrainingRun(tokens=16 * 2048 * 5)
    assert [exact.num_steps(WORKLOAD), replace(exact, tokens=1.0).num_steps(WORKLOAD)] == [5, 1]


@pytest.mark.parametrize(
    ("given", "good"),
    [
        ({"noise": -0.1}, False),
        ({"straggler_factor": -0.1}, False),
        ({"straggler_share": -0.1}, False),
        ({"straggler_share": 1.1}, False),
        ({"noise": 0.0, "straggler_factor": 0.0, "straggler_share": 0.0}, True),
        ({"noise": 0.5, "straggler_factor": 0.5, "straggler_share": 1.0}, True),
    ],
)
def test_disturbances_that_can_be(given: dict[str, float], good: bool) -> None:
    if good:
        assert Disturbance(**given)
    else:
        with pytest.raises(ParplanError, match="disturbance: noise and factor must not be"):
            Disturbance(**given)


def timed_plan(**fields: Any) -> tuple[SharedCosts, Trial]:
    plan = Plan(**{"num_stages": 4, "num_micro_batches": 16, "tensor_parallel": 2, **fields})
    shared = SharedCosts(WORKLOAD, CLUSTER)
    judged = Trial(plan=plan, memory_bytes=(1.0,) * 4)
    (timed,) = shared.timed([judged])
    return shared, timed


def test_one_rank_of_a_replica_is_slow() -> None:
    """Each as likely; the step of a replica is that of the simulator with this rank slowed down."""
    shared, timed = timed_plan()
    tape, costs = shared.lists(timed.plan).tape, shared.stages(timed.plan).costs
    slowed = []
    for rank in range(4):
        durations = varied_durations_ps(tape, costs, slowdown={rank: 1.5})
        (ps,) = fast_many_ps(tape, stage_ticks([costs]), durations_ps=durations).tolist()
        slowed.append(ps / PS_PER_S)
    for share, undisturbed in ((1.0, 0), (0.25, 300)):
        disturbance = Disturbance(straggler_factor=1.5, straggler_share=share)
        rng = np.random.default_rng(0)
        counts = Counter(_steps_s(shared, timed, disturbance, 400, rng).tolist())
        assert counts[timed.step_s or 0.0] == pytest.approx(undisturbed, abs=40)
        assert set(counts) <= {timed.step_s, *slowed}
        if share == 1.0:
            assert set(counts) == set(slowed)
            assert all(60 < count < 140 * slowed.count(s) for s, count in counts.items())


def test_the_draws_do_not_depend_on_how_many_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    shared, timed = timed_plan()
    noisy = Disturbance(noise=0.2, straggler_factor=2.0, straggler_share=0.3)

    def steps_s(seed: int) -> list[float]:
        return _steps_s(shared, timed, noisy, 9, np.random.default_rng(seed)).tolist()

    whole, other = steps_s(4), steps_s(5)
    monkeypatch.setattr(robust_module, "KEPT_DURATIONS", 1)
    assert steps_s(4) == whole != other
    assert len(whole) == 9
    goal = expected_step(WORKLOAD, CLUSTER, noisy, samples=9, seed=4)
    assert goal.key(timed) == goal.key(timed)
    assert goal.key(timed) == pytest.approx(max(timed.step_s or 0.0, mean(whole)), rel=1e-12)
    assert goal.key(trial(None)) == float("inf")
    assert (goal.name, goal.bounded_by) == ("expected-step-time", "step")
    calm = expected_step(WORKLOAD, CLUSTER, Disturbance(), samples=1)
    assert calm.key(replace(timed, step_s=1e3)) == 1e3
    for bad in ({"samples": 0}, {"straggler_factor": 0.99}):
        factor = bad.pop("straggler_factor", 1.0)
        with pytest.raises(ParplanError, match="expected step: stragglers must not be faster"):
            expected_step(WORKLOAD, CLUSTER, Disturbance(straggler_factor=factor), **bad)  # type: ignore[arg-type]


def test_replicas_end_with_the_slowest_of_them() -> None:
    shared, timed = timed_plan(
        num_stages=1, tensor_parallel=1, data_parallel=8, num_micro_batches=2
    )
    noisy = Disturbance(noise=0.3)
    found = _steps_s(shared, timed, noisy, 5, np.random.default_rng(2))
    tape, costs = shared.lists(timed.plan).tape, shared.stages(timed.plan).costs
    rng = np.random.default_rng(2)
    rng.random(40)
    rng.integers(0, 1, 40)
    durations = varied_durations_ps(tape, costs, noise=0.3, samples=40, rng=rng)
    ends = fast_many_ps(tape, stage_ticks([costs] * 40), durations_ps=durations) / PS_PER_S
    assert found.tolist() == ends.reshape(5, 8).max(axis=1).tolist()


def test_an_interval_in_words() -> None:
    like = ratios("Hopper", "neither")
    for high, words in ((0.1, "0.0456 to 0.1 s"), (0.0999, "45.6 to 99.9 ms")):
        said = str(Interval(low_s=0.0456, high_s=high, like=like))
        assert said == f"80 % of like published runs: {words}; n = 100"


def test_like_runs_are_enough_of_several_sources() -> None:
    plan = Plan(data_parallel=8)
    whole = ratios("any", "any")
    for runs, sources, own in ((20, 9, True), (19, 9, False), (20, 8, False)):
        row = ratios("Hopper", "neither", runs=runs, sources=sources)
        found = interval(Residuals(ratios=(whole, row)), H100, plan, 1.0)
        assert found is not None
        assert (found.like == row) == own
    assert interval(Residuals(ratios=(ratios("Ampere", "neither"),)), H100, plan, 1.0) is None
    measured: Any = replace(H100, measured=object())  # type: ignore[arg-type]
    assert interval(Residuals(ratios=(whole,)), measured, plan, 1.0) is None
    other = replace(whole, pool="held-out")
    assert interval(Residuals(ratios=(other,)), H100, plan, 1.0) is None


def test_pairs_of_like_accelerators() -> None:
    def pairs(family: str, sweeps: int) -> Pairs:
        return Pairs(pool="reported", family=family, sweeps=sweeps, pairs=30, apart=1.1)

    some = Residuals(ratios=(), pairs=(pairs("any", 10), pairs("Hopper", 10)))
    assert pairs_like(some, H100) == some.pairs[1]
    assert pairs_like(some, MI250) == some.pairs[0]
    few = Residuals(ratios=(), pairs=(pairs("any", 10), pairs("Hopper", 9)))
    assert pairs_like(few, H100) == few.pairs[0]
    assert pairs_like(Residuals(ratios=(), pairs=(pairs("any", 9),)), H100) is None
    measured: Any = replace(H100, measured=object())  # type: ignore[arg-type]
    assert pairs_like(some, measured) is None
    best = trial(2.0)
    apart = replace(some.pairs[0], apart=1.5)
    near = trial(3.0, batch_per_device=2), trial(2.5, batch_per_device=3)
    far = trial(3.01, batch_per_device=4)
    assert indistinguishable([far, *near, best, trial(None)], best, apart) == [near[1], near[0]]


def change(extra: float, missing: float = 0.0, field: str = "zero_stage") -> Change:
    return Change(
        field=field,
        before="1",
        after="2",
        trial=trial(None) if missing else trial(1.0),
        extra_s=extra,
        extra_share=extra,
        missing_bytes=missing,
        fullest="stage 3" if missing else "",
    )


def test_words_at_their_limits() -> None:
    assert [change(s).pace for s in (0.0004, -0.0004, 0.0006, -0.0006)] == [
        *("as fast", "as fast", "0.1% slower", "0.1% faster")
    ]
    assert change(0.0005).pace == "0.1% slower"
    assert change(0.0004, GB).verdict == "as fast, but needs 1.0 GB more on stage 3"
    assert change(0.0005, GB).verdict == "0.1% slower, and needs 1.0 GB more on stage 3"
    assert str(change(0.25)) == "zero_stage 1 -> 2: 25.0% slower"
    assert [change(0.1).fits, change(0.1, 1.0).fits] == [True, False]
    assert binding([]) == "no other value of any dimension is possible"
    assert binding([change(-0.0004), change(0.1)]) == (
        "no single change is faster, whatever the memory; the nearest: zero_stage 1 -> 2: as fast"
    )
    assert binding([change(-0.0005, GB)]).startswith("memory binds: zero_stage 1 -> 2 would be ")
    assert binding([change(-0.2, GB), change(-0.1)]) == (
        "a change that was not searched is faster: zero_stage 1 -> 2: 10.0% faster"
    )


def test_what_comes_with_the_first_of_something() -> None:
    one = Plan(data_parallel=8, num_micro_batches=2)
    two = Plan(num_stages=2, data_parallel=4, num_micro_batches=4)
    chunks = replace(two, schedule="interleaved-1f1b", virtual_stages=2)
    assert changed_field(one, chunks) == changed_field(chunks, one) == "num_stages"
    four = replace(chunks, num_stages=4, data_parallel=2)
    assert changed_field(two, four) is None
    assert changed_field(chunks, four) == "num_stages"
    split = Plan(tensor_parallel=2, data_parallel=4, num_micro_batches=4, sequence_parallel=True)
    assert changed_field(one, split) == changed_field(split, one) == "tensor_parallel"
    wider = replace(split, tensor_parallel=4, data_parallel=2, sequence_parallel=False)
    assert changed_field(split, wider) is None
    alone = Plan(tensor_parallel=8, num_micro_batches=16, sequence_parallel=True)
    sharded = replace(split, **zero_fields(2))  # type: ignore[arg-type]
    assert changed_field(alone, sharded) == changed_field(sharded, alone) == "tensor_parallel"
    assert changed_field(split, replace(sharded, tensor_parallel=4, data_parallel=2)) is None
    # Of the same degrees, nothing comes with anything.
    assert changed_field(one, replace(one, batch_per_device=2, recomputation="full")) is None
    single = Plan(num_micro_batches=16)
    assert changed_field(single, replace(single, **zero_fields(1))) == "zero_stage"  # type: ignore[arg-type]


def test_changes_name_the_fullest_rank_and_what_it_lacks() -> None:
    size = CLUSTER.accelerator.memory_bytes
    best = trial(2.0, (1e9,), num_stages=2, data_parallel=4, num_micro_batches=4)
    own = best.plan
    full = replace(own, recomputation="full")
    chunks = replace(own, schedule="interleaved-1f1b", virtual_stages=2)
    wide = replace(own, batch_per_device=2, num_micro_batches=2)
    trials = [
        best,
        Trial(plan=full, memory_bytes=(3.0, 5.0), step_s=3.0),
        Trial(plan=chunks, reason="no", memory_bytes=(0.5 * size, 0.9 * size)),
        Trial(plan=wide, reason="no layout"),
        Trial(plan=replace(full, **zero_fields(1)), memory_bytes=(1.0,), step_s=1.0),  # type: ignore[arg-type]
    ]
    found = {c.field: c for c in changes(WORKLOAD, CLUSTER, best, trials, memory_ratio=0.8)}
    assert set(found) == {"recomputation", "schedule"}
    slower = found["recomputation"]
    assert (slower.extra_s, slower.extra_share, slower.missing_bytes) == (1.0, 0.5, 0.0)
    assert (slower.before, slower.after, slower.fullest) == ("none", "full", "stage 1")
    lacks = found["schedule"]
    assert lacks.missing_bytes == pytest.approx(0.1 * size)
    assert (lacks.before, lacks.after, lacks.fullest) == ("1f1b", "interleaved-1f1b x 2", "rank 1")
    assert changes(WORKLOAD, CLUSTER, trial(None), trials) == ()
    # Of two plans with one change, what fits goes before what is faster, then the faster one.
    on_one = Trial(plan=Plan(data_parallel=8, num_micro_batches=2), memory_bytes=(1.0,), step_s=1.0)
    twos = [
        Trial(plan=replace(own, schedule=s), memory_bytes=(1.0,), step_s=t, reason=r)
        for s, t, r in (("gpipe", 5.0, ""), ("1f1b", 4.0, ""), ("zb-h1", 3.0, "no"))
    ]
    (kept,) = changes(WORKLOAD, CLUSTER, on_one, twos)
    assert (kept.field, kept.extra_s) == ("num_stages", 3.0)
    (kept,) = changes(WORKLOAD, CLUSTER, on_one, twos[::-1])
    assert kept.extra_s == 3.0


def test_close_and_kinds() -> None:
    best = trial(1.0)
    near = trial(1.03, recomputation="full")
    piped = trial(1.5, num_stages=2, data_parallel=4)
    twice = trial(2.0, tensor_parallel=2, data_parallel=4)
    sharded = trial(1.2, **zero_fields(3))
    others = [trial(1.4, context_parallel=2, data_parallel=4), trial(1.3, expert_parallel=2)]
    trials = [twice, best, piped, near, trial(None), sharded, *others, trial(2.01, num_stages=4)]
    assert close_trials(trials, best, 0.03) == [near]
    assert close_trials(trials, best, 0.02) == []
    assert best_of_kinds(trials, best, 9) == [best, sharded, *others[::-1], piped, twice]
    assert best_of_kinds(trials, best, 2) == [best, sharded]
    assert best_of_kinds([trial(1.1, **zero_fields(2))], best, 9) == [best]


def test_a_label_has_every_degree() -> None:
    whole = Plan(
        num_stages=2,
        tensor_parallel=4,
        context_parallel=3,
        expert_parallel=5,
        data_parallel=10,
        schedule="interleaved-1f1b",
        virtual_stages=2,
        num_micro_batches=6,
        batch_per_device=7,
        recomputation="selective",
        **zero_fields(1),  # type: ignore[arg-type]
    )
    assert plan_label(whole) == (
        "PP 2, TP 4, CP 3, EP 5, DP 10, interleaved-1f1b x 2, ZeRO-1, selective recomputation, "
        "6 x 7"
    )
    split = replace(trial(1.0, num_stages=2), plan=Plan(num_stages=2, stage_layers=(1, 2)))
    assert without_split(split).plan == Plan(num_stages=2)


def test_levels_say_how_far_they_are_from_the_one_before() -> None:
    plan = Plan()
    standing = Standing(plan=plan, outcomes={"a": 2.0, "b": "not", "c": 3.0, "d": 6.0})
    assert [standing.change(name) for name in "abcde"] == [None, None, None, 1.0, None]
    assert standing.last_s == 6.0
    assert Standing(plan=plan, outcomes={"a": "not"}).last_s == float("inf")
    plans = [Plan(batch_per_device=n) for n in range(1, 6)]
    asked: list[list[int]] = []

    def level(given: Any) -> dict[Plan, float]:
        asked.append([p.batch_per_device for p in given])
        return {p: float(p.batch_per_device) for p in given}

    said: list[tuple[str, int, int]] = []
    found = compared([*plans, plans[0]], dict.fromkeys("xyzw", level), lambda *w: said.append(w))
    assert asked == [[1, 2, 3, 4, 5], [1, 2, 3], [1, 2], [1, 2]]
    assert said == [("x", 1, 4), ("y", 2, 4), ("z", 3, 4), ("w", 4, 4)]
    assert [s.plan.batch_per_device for s in found] == [1, 2, 3, 4, 5]


def test_levels_of_plans_that_do_not_fit_have_times_too() -> None:
    large = [
        Plan(data_parallel=8, batch_per_device=2),
        Plan(num_stages=2, data_parallel=4, num_micro_batches=4),
        Plan(num_stages=3, data_parallel=4, num_micro_batches=4),
    ]
    bound, exact = (make(WORKLOAD, CLUSTER)(large) for make in (bounds_level, exact_level))
    for plan in large[:2]:
        assert 0 < bound[plan] <= exact[plan] < 1e3  # type: ignore[operator]
    assert isinstance(exact[large[2]], str)
    assert bound[large[2]] == float("inf")
