"""The fast evaluator equals the SimPy engine to the picosecond, on named and on random lists."""

import inspect
import random
from collections.abc import Callable
from types import FunctionType

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parplan.errors import ParplanError
from parplan.sim.costs import StageCosts
from parplan.sim.engine.engine import simulate, simulate_steps
from parplan.sim.fast import fast, numpy_sweep
from parplan.sim.fast.fast import Kernel, fast_many_ps, fast_run, fast_step_s, fast_steps
from parplan.sim.programs.arrays import action_arrays, check_arrays
from parplan.sim.programs.instructions import Action, Program, Schedule, check_complete, read_csv
from parplan.sim.run import Run
from parplan.sim.schedules import make_schedule
from parplan.sim.step.self_check import CHECKED_FROM, check_steps
from parplan.sim.step.step_tables import sweep_tables
from parplan.sim.step.sweep import compiled_loops
from parplan.sim.step.tape import lower
from parplan.sim.ticks import PS_PER_S, StageTicks, stage_ticks, ticks_of_seconds
from tests.sim.engine.random_lists import random_costs, random_lists

KERNELS: tuple[Kernel, ...] = ("python", "numpy")
if compiled_loops(load=True) is not None:
    KERNELS += ("numba",)

seeds = st.integers(0, 2**32)


def step_ps(run: Run) -> int:
    return round(run.step_s * PS_PER_S)


def named(name: str, p: int, m: int) -> Schedule:
    if name == "interleaved":
        return make_schedule("interleaved-1f1b", p, m * p, 2)
    return make_schedule(name, p, m)


def check_equal(schedule: Program, stages: int, seed: int, blocking: bool) -> None:
    """All kernels and the engine, on three candidates at once, in steps and in every event."""
    candidates = [random_costs(seed + i, stages) for i in range(3)]
    runs = [simulate(schedule, costs, blocking_sends=blocking) for costs in candidates]
    tape, ticks = lower(schedule), stage_ticks(candidates)
    for kernel in KERNELS:
        ends = fast_many_ps(tape, ticks, blocking_sends=blocking, kernel=kernel)
        assert ends.tolist() == [step_ps(run) for run in runs], kernel
    again = fast_run(schedule, candidates[0], blocking_sends=blocking, tape=tape)
    assert again == runs[0]


@given(seed=seeds, blocking=st.booleans())
@settings(deadline=None, max_examples=300)
def test_random_lists_are_played_alike(seed: int, blocking: bool) -> None:
    check_equal(*random_lists(seed), seed, blocking)


@pytest.mark.parametrize("name", ["gpipe", "1f1b", "interleaved"])
@given(p=st.integers(1, 4), m=st.integers(1, 6), seed=seeds, blocking=st.booleans())
@settings(deadline=None, max_examples=50)
def test_named_schedules_are_played_alike(
    name: str, p: int, m: int, seed: int, blocking: bool
) -> None:
    schedule = named(name, p, m)
    check_equal(schedule, p * (2 if name == "interleaved" else 1), seed, blocking)


@given(seed=seeds)
@settings(deadline=None, max_examples=50)
def test_durations_of_single_actions_are_played_alike(seed: int) -> None:
    schedule, stages = random_lists(seed)
    costs, count = random_costs(seed, stages), sum(map(len, schedule))
    durations = np.random.default_rng(seed).integers(0, 10**6, (3, count))
    runs = [simulate(schedule, costs, durations_ps=own.tolist()) for own in durations]
    for kernel in KERNELS:
        ends = fast_many_ps(
            lower(schedule), stage_ticks([costs] * 3), durations_ps=durations, kernel=kernel
        )
        assert ends.tolist() == [step_ps(run) for run in runs]
    assert fast_run(schedule, costs, durations_ps=durations[0].tolist()) == runs[0]


def test_a_batch_of_several_blocks_keeps_its_order() -> None:
    schedule = make_schedule("1f1b", 3, 4)
    candidates = [random_costs(seed, 3) for seed in range(numpy_sweep.LANES + 3)]
    results = [fast_many_ps(lower(schedule), stage_ticks(candidates), kernel=k) for k in KERNELS]
    for ends in results:
        assert ends.tolist() == results[0].tolist()
    last = simulate(schedule, candidates[-1])
    assert results[0][-1] == step_ps(last)


MUTATIONS = (
    (fast, "sweep", "arrived = left + latency[stage]", "arrived = left"),
    (fast, "sweep", "max(link_free[link], now)", "now"),
    (fast, "sweep", "now = max(now, arrival[slots_in[k]])", "pass"),
    (fast, "sweep", "now = max(now, arrival[slots_in[k]])", "now = arrival[slots_in[k]]"),
    (fast, "sweep", "arrival[slots_out[k]] = arrived", "pass"),
    (fast, "sweep", "reduce_free[rank] + last_total[column]", "0"),
    (fast, "sweep", "now + last_tail[column]", "0"),
    (fast, "sweep", "reduces[k] == 1", "False"),
    (numpy_sweep, "_block", "maximum(now, arrival[slot_in], out=now)", "pass"),
    (numpy_sweep, "_block", "maximum(free, now, out=free)", "free[:] = now"),
    (numpy_sweep, "_block", "add(free, latency[stage], out=arrived)", "arrived[:] = free"),
    (numpy_sweep, "_block", "np.maximum(rank_free, reduce_free)", "np.array(rank_free)"),
    (numpy_sweep, "sweep_numpy", "tables.end.ends(whole)", "whole"),
)


def check_many() -> None:
    for seed in range(100):
        check_equal(*random_lists(seed), seed, False)


def test_the_sweeps_as_they_are_pass_where_faults_are_noticed() -> None:
    check_many()


@pytest.mark.parametrize(("module", "name", "old", "new"), MUTATIONS)
def test_a_fault_in_a_sweep_is_noticed(
    module: object, name: str, old: str, new: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    function: FunctionType = getattr(module, name)
    source = inspect.getsource(function)
    assert old in source
    scope = dict(function.__globals__)
    exec(source.replace(old, new), scope)
    monkeypatch.setattr(module, name, scope[name])
    with pytest.raises(AssertionError):
        check_many()


CHECKED_FAULTS = (
    (fast, "_sweep_one", "sweep)(", "nothing)(", "python"),
    (numpy_sweep, "_block", "add(now, duration[column], out=now)", "pass", "numpy"),
    (
        numpy_sweep,
        "_block",
        "maximum(rank_free, reduce_free)",
        "minimum(rank_free, reduce_free)",
        "numpy",
    ),
    (numpy_sweep, "sweep_numpy", ".max(axis=0)", ".min(axis=0)", "numpy"),
    (numpy_sweep, "sweep_numpy", ".max(axis=0)", ".max(axis=0) - 2**62", "numpy"),
    (fast, "_sweep_numba", "return np.asarray(", "return np.asarray(0 * ", "numba"),
)


def uneven(candidates: int, stages: int) -> StageTicks:
    """Of candidates whose stages differ widely in their work."""
    own = random.Random(5)
    return ticks_of_seconds(
        **{
            name: [[own.choice((0.1, 1, 10)) for _ in range(stages)] for _ in range(candidates)]
            for name in ("forward_s", "input_gradient_s", "weight_gradient_s")
        }
    )


@pytest.mark.parametrize("candidates", [CHECKED_FROM + 4, 2000])
@pytest.mark.parametrize(("module", "name", "old", "new", "kernel"), CHECKED_FAULTS)
def test_a_batch_checks_itself(
    module: object, name: str, old: str, new: str, kernel: Kernel, candidates: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    if kernel not in KERNELS:
        pytest.skip("numba is not installed")
    tape, ticks = lower(make_schedule("1f1b", 4, 2)), uneven(candidates, 4)
    fast_many_ps(tape, ticks, kernel=kernel)
    function: FunctionType = getattr(module, name)
    source = inspect.getsource(function)
    assert old in source
    scope = {**function.__globals__, "nothing": lambda *given: None}
    exec(source.replace(old, new), scope)
    monkeypatch.setattr(module, name, scope[name])
    with pytest.raises(AssertionError, match="a mistake of parplan's; please report it"):
        fast_many_ps(tape, ticks, kernel=kernel)


def test_a_single_wrong_step_among_many_is_noticed_where_it_would_be_chosen() -> None:
    tape, ticks = lower(make_schedule("1f1b", 4, 2)), uneven(5000, 4)
    tables = sweep_tables(tape, ticks, None, 32)
    steps = fast_many_ps(tape, ticks)
    check_steps(tape, tables, steps)
    steps[3217] = steps.min() // 3
    with pytest.raises(AssertionError, match="shorter than the work of a rank"):
        check_steps(tape, tables, steps)


@given(seed=seeds, num_steps=st.integers(1, 4))
@settings(deadline=None, max_examples=50)
def test_steps_in_a_row_are_played_alike(seed: int, num_steps: int) -> None:
    schedule, stages = random_lists(seed)
    costs = random_costs(seed, stages)
    ends = simulate_steps(schedule, costs, num_steps).ends_s
    assert fast_steps(lower(schedule), costs, num_steps).ends_s == ends
    assert ends[0] == simulate(schedule, costs).step_s
    # A rank that is done early begins early, so that a row takes no longer than its steps alone.
    assert ends[-1] <= num_steps * ends[0] * (1 + 1e-12)


@given(seed=seeds)
@settings(deadline=None, max_examples=100)
def test_nothing_happens_before_its_cause(seed: int) -> None:
    schedule, stages = random_lists(seed)
    costs = random_costs(seed, stages)
    run = fast_run(schedule, costs)
    span = {e.name: (e.start_s, e.end_s) for e in run.events if e.stream == "compute"}
    for actions in schedule:
        for stage, op, m in actions:
            start, _ = span[str(Action(stage, op, m))]
            causes = {"F": [(stage - 1, "F")], "W": [(stage, "I")]}.get(
                op, [(stage, "F"), (stage + 1, "B"), (stage + 1, "I")]
            )
            for cause in causes:
                name = f"{cause[0]}{cause[1]}{m}"
                if name in span:
                    assert span[name][1] <= start
    assert run.step_s >= max(e.end_s for e in run.events)
    assert len(span) >= sum(map(len, schedule))


microseconds = st.integers(0, 50)
sizes = st.tuples(st.integers(1, 8), st.integers(1, 20))


def uniform(p: int, f: int, b: int, d: int) -> list[StageCosts]:
    cost = StageCosts(
        forward_s=f * 1e-6, input_gradient_s=b * 1e-6, weight_gradient_s=0.0, latency_s=d * 1e-6
    )
    return [cost] * p


@given(size=sizes, f=microseconds, b=microseconds, d=microseconds)
@settings(deadline=None)
def test_closed_form_of_gpipe(size: tuple[int, int], f: int, b: int, d: int) -> None:
    # Huang et al. 2019 (arXiv:1811.06965), and one latency for each hop of first and last.
    p, m = size
    step = fast_step_s(lower(make_schedule("gpipe", p, m)), uniform(p, f, b, d))
    assert round(step * 1e6) == (m + p - 1) * (f + b) + 2 * (p - 1) * d


@given(size=sizes, f=microseconds, b=microseconds, d=microseconds)
@settings(deadline=None)
def test_closed_form_of_1f1b(size: tuple[int, int], f: int, b: int, d: int) -> None:
    # Every p micro-batches the round trip over the pipeline is waited for once more: found by
    # comparing with simulations, not published.
    p, m = size
    rounds, rest = divmod(m - 1, p)
    waits = (p - 1) * (rounds + 1) + max(0, rest - 1)
    step = fast_step_s(lower(make_schedule("1f1b", p, m)), uniform(p, f, b, d))
    assert round(step * 1e6) == (m + p - 1) * (f + b) + 2 * d * waits


def test_the_choice_of_kernel() -> None:
    tape, ticks = lower(make_schedule("1f1b", 2, 2)), stage_ticks([random_costs(0, 2)])
    assert fast_many_ps(tape, ticks).tolist() == fast_many_ps(tape, ticks, kernel="numpy").tolist()


def test_deadlocks_are_named_as_the_engine_names_them() -> None:
    schedule = read_csv("0F0,0B0,0F1,0B1\n1F0,1F1,1B0,1B1")
    with pytest.raises(ParplanError) as error:
        simulate(schedule, random_costs(0, 2))
    with pytest.raises(ParplanError) as same:
        lower(schedule)
    assert str(same.value) == str(error.value)


def verdict(function: Callable[..., object], *args: object) -> str:
    try:
        function(*args)
    except ParplanError as error:
        return str(error)
    return ""


@given(seed=seeds)
@settings(deadline=None, max_examples=200)
def test_both_players_say_the_same_of_lists_in_the_wrong_order(seed: int) -> None:
    draw, (schedule, stages) = random.Random(seed), random_lists(seed)
    lists = [list(actions) for actions in schedule]
    for _ in range(draw.randint(1, 3)):
        own = draw.choice(lists)
        a, b = draw.randrange(len(own)), draw.randrange(len(own))
        own[a], own[b] = own[b], own[a]
    swapped = tuple(map(tuple, lists))
    assert verdict(lower, swapped) == verdict(simulate, swapped, random_costs(seed, stages))


@given(seed=seeds)
@settings(deadline=None, max_examples=200)
def test_lists_are_found_incomplete_as_arrays_and_as_lists(seed: int) -> None:
    draw, (schedule, stages) = random.Random(seed), random_lists(seed)
    lists = [list(actions) for actions in schedule]
    own = draw.choice(lists)
    place = draw.randrange(len(own))
    kept = own.pop(place)
    other = Action(draw.randint(0, stages), draw.choice("FBIW"), draw.randint(0, 5))
    own[place:place] = draw.choice([[], [kept], [kept, kept], [other], [kept, other]])
    changed = tuple(map(tuple, lists))
    micro_batches = 1 + max((a.micro_batch for actions in changed for a in actions), default=-1)
    if any(changed):
        found = verdict(check_arrays, action_arrays(changed), stages)
        assert found == verdict(check_complete, changed, stages, micro_batches)


def test_costs_that_do_not_fit_are_refused() -> None:
    tape = lower(make_schedule("1f1b", 2, 2))
    with pytest.raises(ParplanError, match="3 stages, but the schedule has 2"):
        fast_step_s(tape, random_costs(0, 3))
    with pytest.raises(ParplanError, match="64 bits of picoseconds"):
        fast_step_s(
            tape, [StageCosts(forward_s=1e6, input_gradient_s=1e6, weight_gradient_s=1e6)] * 2
        )
    with pytest.raises(ParplanError, match=r"\[2, 2\]"):
        fast_many_ps(tape, stage_ticks([random_costs(0, 2)]), durations_ps=np.zeros((2, 2), int))
