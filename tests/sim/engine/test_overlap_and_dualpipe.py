"""Overlapped pairs, stages with copies on two ranks, and the end of a step: all players alike."""

import dataclasses
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parplan.errors import ParplanError
from parplan.hardware.machines.presets import cluster_preset
from parplan.sim.costs import StageCosts
from parplan.sim.engine.engine import simulate, simulate_steps
from parplan.sim.fast.fast import fast_many_ps, fast_run, fast_steps
from parplan.sim.fast.shared_link_evaluator import contended_many_ps, contended_run
from parplan.sim.memory.moments import moments_of
from parplan.sim.memory.peak import StageNeeds, rank_memory
from parplan.sim.models.model import model_preset
from parplan.sim.plan import Plan
from parplan.sim.prediction.predict import compile_plan, predict
from parplan.sim.programs.instructions import Overlap, computations, read_program
from parplan.sim.run import Run
from parplan.sim.schedules import make_program
from parplan.sim.software.framework import NO_OVERHEAD
from parplan.sim.step.tape import lower
from parplan.sim.ticks import PS_PER_S, stage_ticks
from parplan.sim.workload import Workload
from tests.sim.engine.random_lists import random_costs, random_lists, random_program
from tests.sim.fast.test_fast import KERNELS, step_ps
from tests.sim.fast.test_shared_links import COMPILED, random_links

seeds = st.integers(0, 2**32)


@given(seed=seeds, blocking=st.booleans(), post=st.booleans())
@settings(deadline=None, max_examples=300)
def test_random_programs_are_played_alike(seed: int, blocking: bool, post: bool) -> None:
    program, stages = random_program(seed)
    candidates = [random_costs(seed + i, stages, whole_step=True) for i in range(3)]
    how = {"blocking_sends": blocking, "post_validation": post}
    runs = [simulate(program, costs, **how) for costs in candidates]
    tape, ticks = lower(program), stage_ticks(candidates)
    for kernel in KERNELS:
        ends = fast_many_ps(tape, ticks, **how, kernel=kernel)
        assert ends.tolist() == [step_ps(run) for run in runs], kernel
    assert fast_run(program, candidates[0], **how, tape=tape) == runs[0]
    links = random_links(seed, len(program), "fifo" if seed % 2 else "fair")
    shared = [simulate(program, costs, links=links, **how) for costs in candidates]
    assert contended_run(program, candidates[0], links, **how) == shared[0]
    for compiled in COMPILED:
        ends = contended_many_ps(tape, ticks, links, **how, compiled=compiled)
        assert ends.tolist() == [step_ps(run) for run in shared]


@given(seed=seeds, num_steps=st.integers(1, 3), post=st.booleans())
@settings(deadline=None, max_examples=100)
def test_steps_in_a_row_are_played_alike(seed: int, num_steps: int, post: bool) -> None:
    program, stages = random_program(seed)
    costs = random_costs(seed, stages, whole_step=True)
    found = simulate_steps(program, costs, num_steps, post_validation=post)
    assert fast_steps(lower(program), costs, num_steps, post_validation=post).ends_s == found.ends_s
    first = simulate(program, costs, post_validation=post)
    assert found.runs[0] == replace(first, step_s=found.ends_s[0], staggered=False)
    assert first.staggered or first.step_s == found.ends_s[0]


@given(seed=seeds)
@settings(deadline=None, max_examples=100)
def test_durations_of_single_actions_are_played_alike(seed: int) -> None:
    program, stages = random_program(seed)
    costs = random_costs(seed, stages, whole_step=True)
    count = sum(map(len, computations(program)))
    durations = np.random.default_rng(seed).integers(0, 10**6, (2, count))
    runs = [simulate(program, costs, durations_ps=own.tolist()) for own in durations]
    tape, ticks = lower(program), stage_ticks([costs] * 2)
    for kernel in KERNELS:
        ends = fast_many_ps(tape, ticks, durations_ps=durations, kernel=kernel)
        assert ends.tolist() == [step_ps(run) for run in runs]
    assert fast_run(program, costs, durations_ps=durations[0].tolist()) == runs[0]


def cost(**seconds: float) -> StageCosts:
    one = {"forward_s": 1.0, "input_gradient_s": 1.0, "weight_gradient_s": 1.0}
    return StageCosts(**{**one, **seconds})  # type: ignore[arg-type]


def spans(run: Run, name: str) -> list[tuple[int, float, float]]:
    return [(e.rank, e.start_s, e.end_s) for e in run.events if e.name == name]


@pytest.mark.parametrize(("share", "together"), [(0.0, 3.0), (0.5, 2.5), (1.0, 2.0)])
def test_a_pair_starts_with_both_inputs_and_ends_both_results(
    share: float, together: float
) -> None:
    program = read_program("0F0,(0F1;0B0)OVERLAP_F_B,0B1\n1F0,1B0,1F1,1B1")
    costs = [cost(overlap_share=share, latency_s=0.25), cost(latency_s=0.25)]
    run = simulate(program, costs)
    start = 1 + 0.25 + 1 + 2 + 0.25
    assert spans(run, "0F1") == spans(run, "0B0") == [(0, start, start + together)]
    assert spans(run, "1F1")[0][1] == start + together + 0.25
    assert run.busy_s(0) == 1 + together + 2
    assert run.busy_s(0) == Run(step_s=run.step_s, events=tuple(run.events)).busy_s(0)


@given(seed=seeds)
@settings(deadline=None, max_examples=50)
def test_pairs_take_between_the_longer_one_and_both(seed: int) -> None:
    program, stages = random_program(seed)
    costs = random_costs(seed, stages, whole_step=True)
    run, share = simulate(program, costs), costs[0].overlap_share
    span = {e.name: e for e in run.events if e.stream == "compute"}
    alone = {
        e.name: round((e.end_s - e.start_s) * PS_PER_S)
        for e in simulate(computations(program), costs).events
        if e.stream == "compute"
    }
    for pair in (i for rank in program for i in rank if isinstance(i, Overlap)):
        took = round((span[str(pair.forward)].end_s - span[str(pair.forward)].start_s) * PS_PER_S)
        f, b = alone[str(pair.forward)], alone[str(pair.backward)]
        assert max(f, b) <= took <= f + b
        assert took == f + b - round(share * min(f, b))


def test_without_gain_a_pair_waits_for_both_and_is_never_sooner() -> None:
    for p, m in ((2, 4), (4, 8), (4, 11)):
        program = make_program("dualpipe-v", p, m, 2)
        costs = [cost(latency_s=0.1)] * (2 * p)
        together, apart = simulate(program, costs), simulate(computations(program), costs)
        assert together.step_s >= apart.step_s
        gained = simulate(program, [cost(latency_s=0.1, overlap_share=1.0)] * (2 * p))
        assert gained.step_s < together.step_s


def test_a_backward_with_its_own_forward_is_no_pair() -> None:
    with pytest.raises(ParplanError, match="its backward needs its forward"):
        simulate(read_program("(0F0;0B0)OVERLAP_F_B"), [cost()])


def test_communication_is_refused() -> None:
    program = read_program("0F0,0SEND_F0,0RECV_B0,0B0\n1RECV_F0,1F0,1B0,1SEND_B0")
    with pytest.raises(ParplanError, match="the lists hold communication"):
        simulate(program, [cost()] * 2)


@pytest.mark.parametrize(("p", "m"), [(2, 4), (4, 8), (4, 12), (8, 16)])
def test_dualpipe_has_the_bubble_that_was_published(p: int, m: int) -> None:
    # (p / 2 - 1)(F&B + B - 3 W) for F = I = W: DeepSeek-AI 2024, table 2.
    for share in (0.0, 1.0):
        run = simulate(make_program("dualpipe", p, m), [cost(overlap_share=share)] * p)
        together = 3 - share
        bubble = (p // 2 - 1) * (together + 2 - 3)
        assert max(run.step_s - run.busy_s(rank) for rank in range(p)) == pytest.approx(bubble)


def test_both_ranks_of_a_stage_reduce_it_together() -> None:
    # Stage 0 takes its micro-batches on rank 0 and on rank 1; rank 1 is done later.
    program = read_program("0F0,1F1,1B1,0B0\n1F0,1B0,0F1,0B1")
    costs = [cost(reduce_s=4.0, optimizer_s=0.5), cost(reduce_s=2.0)]
    run = simulate(program, costs)
    done = max(e.end_s for e in run.events if e.stream == "compute" and e.name[1] == "B")
    assert spans(run, "reduce 0") == [(r, done, done + 4) for r in (0, 1)]
    assert spans(run, "reduce 1") == [(r, done + 4, done + 6) for r in (0, 1)]
    assert run.step_s == done + 6.5


def test_copies_cannot_reduce_in_every_micro_batch() -> None:
    program, costs = make_program("dualpipe", 2, 4), [cost(reduce_each_micro_batch=True)] * 2
    for play in (simulate, fast_run):
        with pytest.raises(ParplanError, match="stage 0 is on several ranks"):
            play(program, costs)


def test_dualpipe_holds_two_stages_and_a_micro_batch_more_than_there_are_stages() -> None:
    names = StageNeeds.__dataclass_fields__
    need = StageNeeds(**{**dict.fromkeys(names, 0.0), "parameter_bytes": 1.0, "saved_bytes": 1.0})
    memory = rank_memory([need] * 4, moments_of(computations(make_program("dualpipe", 4, 8))))
    assert [m.parameter_bytes for m in memory] == [2.0] * 4
    assert max(m.activation_bytes for m in memory) == 4 + 1


def test_a_norm_makes_all_ranks_wait_and_post_validation_does_not() -> None:
    # Qi et al. 2023, section 4: without the barrier the ranks stay apart from step to step.
    p, m, steps = 4, 12, 6
    program = make_program("zb-h2", p, m)
    costs = [cost(norm_sync_s=0.5, optimizer_s=0.5, latency_s=0.01)] * p
    waits = simulate_steps(program, costs, steps)
    post = simulate_steps(program, costs, steps, post_validation=True)
    none = simulate_steps(program, [cost(optimizer_s=0.5, latency_s=0.01)] * p, steps)
    assert none.ends_s[-1] <= post.ends_s[-1] < waits.ends_s[-1]
    assert waits.ends_s[-1] == pytest.approx(steps * waits.ends_s[0])
    # At the pace of a step the bubble is gone, but for the messages of the longest round trip.
    assert post.ends_s[-1] - post.ends_s[-2] == pytest.approx(m * 3 + 0.5, abs=0.5)
    (norm, *_) = [e for e in waits.runs[0].events if e.name.startswith("norm")]
    assert norm.end_s - norm.start_s == pytest.approx(0.5)


def test_an_overlap_share_is_a_share() -> None:
    with pytest.raises(ParplanError, match=r"overlap_share: must be from 0 to 1, got 1\.5"):
        cost(overlap_share=1.5)


@given(seed=seeds)
@settings(deadline=None, max_examples=50)
def test_no_norm_needs_no_validation(seed: int) -> None:
    schedule, stages = random_lists(seed)
    costs = random_costs(seed, stages)
    assert simulate(schedule, costs, post_validation=True) == simulate(schedule, costs)


@pytest.mark.parametrize(("name", "chunks"), [("dualpipe", 1), ("dualpipe-v", 2)])
def test_a_plan_with_dualpipe_is_predicted(name: str, chunks: int) -> None:
    workload = Workload(
        model=model_preset("llama3-8b"), seq_len=1024, global_batch=16, framework=NO_OVERHEAD
    )
    plan = Plan(num_stages=8, num_micro_batches=16, schedule=name, virtual_stages=chunks)
    cluster = cluster_preset("8xh100")
    compiled = compile_plan(workload, cluster, plan)
    run = predict(compiled)
    assert run == fast_run(compiled.schedule, compiled.costs)
    assert sum(isinstance(i, Overlap) for rank in compiled.schedule for i in rank) > 0
    # Each rank has two stages of `dualpipe`, or two half stages of `dualpipe-v`.
    plain = dataclasses.replace(plan, schedule="1f1b", virtual_stages=1)
    one = compile_plan(workload, cluster, plain)
    state, usual = (sum(m.parameter_bytes for m in c.memory) for c in (compiled, one))
    assert state == pytest.approx(usual * (2 if name == "dualpipe" else 1))
