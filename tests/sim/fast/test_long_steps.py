"""Steps of hours to 53 days: above 2^53 ps a float of picoseconds is no whole number any more.

The engine counts in Python's integers, the fast path in 64 bits; both have to say the same second.
"""

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from parplan.errors import ParplanError
from parplan.hardware.machines.presets import cluster_preset
from parplan.planners.costs.trial import Trial
from parplan.planners.search.exhaustive import exhaustive
from parplan.sim.analysis.critical_path import critical_path
from parplan.sim.costs import StageCosts
from parplan.sim.engine.engine import simulate, simulate_steps
from parplan.sim.fast.fast import fast_many_ps, fast_run, fast_steps
from parplan.sim.fast.shared_link_evaluator import contended_many_ps, contended_run
from parplan.sim.fast.slowdown_evaluator import slowed_run
from parplan.sim.models.model import model_preset
from parplan.sim.plan import Plan
from parplan.sim.prediction.predict import compile_plan
from parplan.sim.programs.instructions import Program
from parplan.sim.step.tape import lower
from parplan.sim.ticks import EXACT_PS, MOST_PS, PS_PER_S, stage_ticks, to_seconds
from parplan.sim.workload import Workload
from tests.sim.engine.random_lists import random_costs, random_lists, random_program
from tests.sim.fast.test_fast import KERNELS
from tests.sim.fast.test_shared_links import COMPILED, random_links

seeds = st.integers(0, 2**32)
sizes = st.floats(54.0, 59.0)
"""Exponents of 2 of a step in picoseconds."""

TIMES = ("forward_s", "input_gradient_s", "weight_gradient_s", "first_gradient_extra_s",
         "send_s", "latency_s", "reduce_s", "optimizer_s", "gather_s", "norm_sync_s")  # fmt: skip


def long_costs(seed: int, program: Program, stages: int, size: float) -> list[StageCosts]:
    """Random costs of which a step takes about 2^`size` ps."""
    costs = random_costs(seed, stages, whole_step=True)
    step_s = simulate(program, costs).step_s
    assume(step_s > 0)
    scale = 2**size / PS_PER_S / step_s
    longer = [replace(cost, **{n: getattr(cost, n) * scale for n in TIMES}) for cost in costs]
    try:
        found = simulate(program, longer)
    except ParplanError:  # Longer than can be simulated.
        assume(False)
    assert found.step_s > EXACT_PS / PS_PER_S
    return longer


@given(seed=seeds, size=sizes, blocking=st.booleans())
@settings(deadline=None, max_examples=40)
def test_long_steps_are_the_same_to_the_last_bit(seed: int, size: float, blocking: bool) -> None:
    program, stages = random_program(seed)
    costs = [long_costs(seed + i, program, stages, size) for i in range(2)]
    runs = [simulate(program, own, blocking_sends=blocking) for own in costs]
    tape, ticks = lower(program), stage_ticks(costs)
    for kernel in KERNELS:
        steps = fast_many_ps(tape, ticks, blocking_sends=blocking, kernel=kernel)
        assert to_seconds(steps).tolist() == [run.step_s for run in runs], kernel
    assert fast_run(program, costs[0], blocking_sends=blocking, tape=tape) == runs[0]


@given(
    seed=seeds, size=sizes, factor=st.floats(1.0, 4.0), sharing=st.sampled_from(["fifo", "fair"])
)
@settings(deadline=None, max_examples=40)
def test_long_steps_on_shared_links_and_beside_messages(
    seed: int, size: float, factor: float, sharing: str
) -> None:
    program, stages = random_lists(seed)
    costs = long_costs(seed, program, stages, size)
    links = random_links(seed, len(program), sharing)
    run = simulate(program, costs, links=links)
    assert contended_run(program, costs, links) == run
    tape, ticks = lower(program), stage_ticks([costs])
    for compiled in COMPILED:
        steps = contended_many_ps(tape, ticks, links, compiled=compiled)
        assert to_seconds(steps).tolist() == [run.step_s]
    slow = simulate(program, costs, compute_slowdown_during_messages=factor)
    assert slowed_run(program, costs, factor) == slow


@given(seed=seeds, size=sizes)
@settings(deadline=None, max_examples=30)
def test_long_steps_in_a_row(seed: int, size: float) -> None:
    program, stages = random_program(seed)
    costs = long_costs(seed, program, stages, size)
    found = simulate_steps(program, costs, 3).ends_s
    assert fast_steps(lower(program), costs, 3).ends_s == found
    assert list(found) == sorted(found)


@given(seed=seeds, size=sizes)
@settings(deadline=None, max_examples=30)
def test_the_critical_path_of_a_long_step_has_no_gap(seed: int, size: float) -> None:
    program, stages = random_lists(seed)
    costs = [replace(c, post_validation=False) for c in long_costs(seed, program, stages, size)]
    run = simulate(program, costs)
    path = critical_path(program, costs, run)
    assert path[0].start_s == 0
    assert path[-1].end_s == run.step_s
    assert all(a.end_s == b.start_s for a, b in pairwise(path))


@given(times=st.lists(st.integers(0, MOST_PS), min_size=1, max_size=20))
def test_seconds_are_rounded_once_and_keep_their_order(times: Sequence[int]) -> None:
    found = to_seconds(np.array(times, dtype=np.int64))
    assert found.tolist() == [time / PS_PER_S for time in times]
    assert to_seconds(np.sort(times)).tolist() == sorted(found)


def test_a_search_whose_steps_take_hours_ends_with_the_engines_step() -> None:
    """The seconds of a batch's best, and those of the engine that checks it, once differed."""
    workload = Workload(model=model_preset("llama2-13b"), seq_len=8192, global_batch=65536)
    cluster = cluster_preset("8xh100")
    plans = [
        Plan(num_stages=p, tensor_parallel=8 // p, num_micro_batches=64, batch_per_device=1024)
        for p in (2, 4, 8)
    ]
    report = exhaustive(workload, cluster, plans, memory_ratio=1e6)
    timed = [trial for trial in report.trials if trial.step_s is not None]
    assert len(timed) == 3
    for trial in timed:
        check_trial(workload, trial)


def check_trial(workload: Workload, trial: Trial) -> None:
    compiled = compile_plan(workload, cluster_preset("8xh100"), trial.plan)
    run = simulate(compiled.schedule, compiled.costs)
    assert trial.step_s == run.step_s > EXACT_PS / PS_PER_S
    (ps,) = fast_many_ps(lower(compiled.schedule), stage_ticks([compiled.costs]))
    assert int(ps) / PS_PER_S == run.step_s
