"""Every schedule: complete lists, memory and step times as the papers give them."""

from itertools import accumulate

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parplan.errors import ParplanError
from parplan.sim.costs import StageCosts
from parplan.sim.engine.engine import PS_PER_S, simulate
from parplan.sim.programs.instructions import (
    Action,
    Overlap,
    Schedule,
    check_complete,
    computations,
    read_csv,
    read_program,
    write_csv,
)
from parplan.sim.programs.validate import explain
from parplan.sim.programs.with_messages import add_communication
from parplan.sim.schedules import (
    CATALOGUE,
    PassTimes,
    make_program,
    make_schedule,
    why_not,
)
from parplan.sim.schedules.interleaved import interleaved_1f1b
from parplan.sim.schedules.placement import rank_of_stage, stages_of_rank
from parplan.sim.schedules.zero_bubble import occupied_time

ranks = st.integers(1, 8)
micro_batches = st.integers(1, 16)
microseconds = st.integers(0, 50)
some = st.integers(1, 50)


def uniform(f: int, i: int, w: int) -> StageCosts:
    return StageCosts(forward_s=f * 1e-6, input_gradient_s=i * 1e-6, weight_gradient_s=w * 1e-6)


def step_us(schedule: Schedule, costs: list[StageCosts]) -> float:
    return round(simulate(schedule, costs).step_s * PS_PER_S) / 10**6


def peak_in_flight(schedule: Schedule) -> list[int]:
    """For each rank, the most forwards whose backward is not finished, over all its stages."""
    peaks = []
    for actions in schedule:
        held = [0]
        for action in actions:
            held.append(held[-1] + {"F": 1, "B": -1, "I": 0, "W": -1}[action.op])
        peaks.append(max(held))
    return peaks


@pytest.mark.parametrize("name", CATALOGUE)
@given(p=ranks, m=st.integers(1, 40), v=st.integers(1, 4))
@settings(deadline=None, max_examples=60)
def test_every_schedule_is_right_and_runs(name: str, p: int, m: int, v: int) -> None:
    kind = CATALOGUE[name]
    if why_not(name, p, m, v):
        with pytest.raises(ParplanError, match=f"^{name}: "):
            make_program(name, p, m, v)
        return
    program = make_program(name, p, m, v)
    assert len(program) == p
    assert explain(program, p * v, m, bidirectional=not kind.one_copy) == []
    assert read_program(write_csv(program)) == program
    assert any(isinstance(i, Overlap) for row in program for i in row) == kind.overlaps
    ops = {action.op for row in computations(program) for action in row}
    assert ("I" in ops) == kind.splits_backward
    half = m // 2
    for rank, actions in enumerate(computations(program)):
        assert {a.stage for a in actions} == set(stages_of_rank(kind.placement, p, rank, v))
        for stage, _, micro_batch in actions:
            assert rank == rank_of_stage(kind.placement, p, stage, micro_batch >= half)
    if kind.one_copy:
        simulate(computations(program), [uniform(1, 1, 1)] * (p * v))


@pytest.mark.parametrize("name", CATALOGUE)
@given(p=ranks, m=st.integers(1, 24), v=st.integers(1, 4), reduce=st.booleans())
@settings(deadline=None, max_examples=30)
def test_communication_belongs_to_the_computations(
    name: str, p: int, m: int, v: int, reduce: bool
) -> None:
    if why_not(name, p, m, v):
        return
    program = make_program(name, p, m, v)
    full = add_communication(program, reduce_gradients=reduce)
    assert explain(full, p * v, m, bidirectional=not CATALOGUE[name].one_copy) == []
    assert computations(full) == computations(program) == read_csv(write_csv(full))
    assert sum(str(i).count("REDUCE_GRAD") for row in full for i in row) == reduce * sum(
        len({a.stage for a in row}) for row in computations(program)
    )


@pytest.mark.parametrize("name", ["gpipe", "1f1b"])
@given(p=ranks, m=micro_batches)
@settings(deadline=None)
def test_every_list_is_complete_and_survives_csv(name: str, p: int, m: int) -> None:
    schedule = make_schedule(name, p, m)
    check_complete(schedule, p, m)
    assert read_csv(write_csv(schedule)) == schedule


def test_the_lists_are_those_of_the_papers() -> None:
    assert write_csv(make_schedule("gpipe", 2, 2)) == "0F0,0F1,0B0,0B1\n1F0,1F1,1B0,1B1\n"
    assert write_csv(make_schedule("1f1b", 2, 3)) == (
        "0F0,0F1,0B0,0F2,0B1,0B2\n1F0,1B0,1F1,1B1,1F2,1B2\n"
    )


def micro_batches_in_flight(schedule: Schedule) -> list[int]:
    """The most micro-batches of each rank between their forward and their backward."""
    return [max(accumulate(1 if op == "F" else -1 for _, op, _ in row)) for row in schedule]


@given(p=ranks, m=micro_batches)
@settings(deadline=None)
def test_micro_batches_in_flight(p: int, m: int) -> None:
    assert micro_batches_in_flight(make_schedule("gpipe", p, m)) == [m] * p
    one = micro_batches_in_flight(make_schedule("1f1b", p, m))
    assert one == [min(m, p - stage) for stage in range(p)]


@pytest.mark.parametrize("name", ["gpipe", "1f1b"])
@given(p=ranks, m=micro_batches, f=microseconds, b=microseconds)
@settings(deadline=None)
def test_step_time_without_communication(name: str, p: int, m: int, f: int, b: int) -> None:
    # (m + p - 1)(f + b) for both: Narayanan et al. 2021, section 2.2.
    cost = StageCosts(forward_s=f * 1e-6, input_gradient_s=b * 1e-6, weight_gradient_s=0.0)
    run = simulate(make_schedule(name, p, m), [cost] * p)
    assert round(run.step_s * PS_PER_S) == (m + p - 1) * (f + b) * 10**6


@given(p=ranks, m=micro_batches, f=st.integers(1, 50), b=st.integers(1, 50), d=microseconds)
@settings(deadline=None)
def test_step_time_of_gpipe_with_latency(p: int, m: int, f: int, b: int, d: int) -> None:
    # Every hop of the first forward and of the last backward adds its latency once.
    cost = StageCosts(
        forward_s=f * 1e-6, input_gradient_s=b * 1e-6, weight_gradient_s=0.0, latency_s=d * 1e-6
    )
    run = simulate(make_schedule("gpipe", p, m), [cost] * p)
    expected = (m + p - 1) * (f + b) + 2 * (p - 1) * d
    assert round(run.step_s * PS_PER_S) == expected * 10**6


def test_an_incomplete_list_is_refused_by_what_is_missing() -> None:
    schedule = make_schedule("gpipe", 2, 2)
    with pytest.raises(ParplanError, match=r"1, micro-batch 1: expected F B .*got F"):
        check_complete((schedule[0], schedule[1][:-1]), 2, 2)
    with pytest.raises(ParplanError, match="1F0 is missing"):
        check_complete((schedule[0], ()), 2, 2)
    with pytest.raises(ParplanError, match="stage 1 of micro-batch 0 is on rank 0 and on rank 1"):
        check_complete(((*schedule[0], Action(1, "F", 0)), schedule[1]), 2, 2)


def test_an_unknown_schedule_suggests_the_near_one() -> None:
    with pytest.raises(ParplanError, match="did you mean 1f1b"):
        make_schedule("1f1", 2, 2)


@given(p=ranks, m=micro_batches, v=st.integers(1, 4), f=some, b=some)
@settings(deadline=None, max_examples=50)
def test_step_time_of_interleaved_1f1b(p: int, m: int, v: int, f: int, b: int) -> None:
    # m (f + b) + (p - 1)(f + b) / v: Narayanan et al. 2021, section 2.2; f, b of one of v chunks.
    schedule = make_schedule("interleaved-1f1b", p, p * m, v)
    expected = (p * m * v + p - 1) * (f + b)
    assert step_us(schedule, [uniform(f, b, 0)] * (p * v)) == expected


@given(p=ranks, m=micro_batches, v=st.integers(1, 4), f=some, b=some)
@settings(deadline=None, max_examples=50)
def test_step_time_of_the_breadth_first_pipeline(p: int, m: int, v: int, f: int, b: int) -> None:
    # The same bubble, (p - 1)(f + b) of a chunk, as long as a loop has p micro-batches or more:
    # Lamy-Poirier 2022, section 4.
    schedule = make_schedule("looped-bfs", p, p - 1 + m, v)
    expected = ((p - 1 + m) * v + p - 1) * (f + b)
    assert step_us(schedule, [uniform(f, b, 0)] * (p * v)) == expected


@given(p=ranks, m=st.integers(1, 40), f=some, i=some, w=some)
@settings(deadline=None, max_examples=100)
def test_step_time_of_zb_h1(p: int, m: int, f: int, i: int, w: int) -> None:
    # m (f + i + w) + (p - 1)(f + i - w): Qi et al. 2023, table 2. It holds for w <= f, i.
    f, i = max(f, w), max(i, w)
    expected = m * (f + i + w) + (p - 1) * (f + i - w)
    if m >= p:
        assert step_us(make_schedule("zb-h1", p, m), [uniform(f, i, w)] * p) == expected


@given(p=ranks, m=st.integers(1, 40), f=some, i=some, w=some)
@settings(deadline=None)
def test_time_within_a_rank_of_zb_h2(p: int, m: int, f: int, i: int, w: int) -> None:
    # m (f + i + w) + (p - 1)(f + i - 2 w), nothing of it a bubble for f = i = w: Qi et al. 2023,
    # table 2. It holds for w <= f, i and 2 p - 1 micro-batches or more.
    m, f, i = m + 2 * p - 2, max(f, w), max(i, w)
    times = PassTimes(forward=f, input_gradient=i, weight_gradient=w)
    occupied = occupied_time(make_schedule("zb-h2", p, m), times)
    assert occupied == m * (f + i + w) + (p - 1) * (f + i - 2 * w)


@given(p=ranks, m=st.integers(1, 40), t=some)
@settings(deadline=None)
def test_step_time_of_zb_v(p: int, m: int, t: int) -> None:
    # 3 m f + (p - 1) f / 2 for f = i = w of a whole rank: Qi et al. 2023, section 6.
    m += 2 * p - 2
    expected = 6 * m * t + (p - 1) * t
    assert step_us(make_schedule("zb-v", p, m, 2), [uniform(t, t, t)] * (2 * p)) == expected


@given(p=ranks, m=st.integers(1, 40), v=st.integers(1, 4))
@settings(deadline=None)
def test_activations_held(p: int, m: int, v: int) -> None:
    ranks_of = range(p)
    assert peak_in_flight(make_schedule("1f1b", p, m)) == [min(m, p - r) for r in ranks_of]
    # Qi et al. 2023, table 2 and section 6, counted until the weight gradient is done.
    assert peak_in_flight(make_schedule("zb-h1", p, m)) == [min(m, p)] * p
    assert peak_in_flight(make_schedule("zb-h2", p, m)) == [min(m, 2 * p - 1)] * p
    assert max(peak_in_flight(make_schedule("zb-v", p, m, 2))) == 2 * min(m, p)
    assert max(peak_in_flight(make_schedule("looped-bfs", p, m, v))) == m * v


@given(p=ranks, m=micro_batches, waves=st.integers(1, 3))
@settings(deadline=None, max_examples=50)
def test_waves_need_no_more_than_1f1b_for_few_micro_batches(p: int, m: int, waves: int) -> None:
    m, v = min(m, p), 2 * waves
    schedule = make_schedule("hanayo", p, m, v)
    assert max(peak_in_flight(schedule)) <= m * v
    assert step_us(schedule, [uniform(1, 2, 0)] * (p * v)) <= v * 3 * (m + p - 1)


def test_torchs_and_megatrons_interleaved_order() -> None:
    # Where the ranks divide the micro-batches both run groups as large as there are ranks.
    group_of_4 = interleaved_1f1b(4, 12, 2, group_size=4)
    assert group_of_4 == make_schedule("interleaved-1f1b", 4, 12, 2)
    # Megatron's larger groups, the last one smaller.
    larger = interleaved_1f1b(2, 7, 2, group_size=4)
    assert explain(larger, 4, 7) == []
    with pytest.raises(ParplanError, match="group_size: 4 of 5 micro-batches on 2 ranks"):
        interleaved_1f1b(2, 5, 2, group_size=4)


def test_the_lists_of_the_zero_bubble_paper() -> None:
    # Figure 3, the second of four devices.
    h1 = "F0 F1 F2 I0 F3 I1 W0 F4 I2 W1 F5 I3 W2 F6 I4 W3 F7 I5 W4 I6 W5 I7 W6 W7"
    h2 = "F0 F1 F2 F3 F4 I0 F5 I1 F6 I2 W0 F7 I3 W1 I4 W2 I5 W3 I6 W4 I7 W5 W6 W7"
    for name, figure in (("zb-h1", h1), ("zb-h2", h2)):
        row = make_schedule(name, 4, 8)[1]
        assert " ".join(f"{a.op}{a.micro_batch}" for a in row) == figure


@pytest.mark.parametrize(
    ("name", "size", "message"),
    [
        ("1f1b", (4, 8, 2), "1f1b: virtual_stages 2; needs 1"),
        ("hanayo", (4, 8, 3), "hanayo: virtual_stages 3; needs an even number"),
        ("interleaved-1f1b", (4, 9, 2), "9 micro-batches on 4 ranks do not make 2 equal rounds"),
        ("dualpipe-v", (4, 7, 2), "7 micro-batches; needs at least as many as there are stages, 8"),
        ("dualpipe", (3, 8, 1), "dualpipe: 3 ranks; needs an even number"),
        ("dualpipe", (4, 9, 1), "needs an even number of at least 8 for 4 ranks"),
        ("gpipe", (0, 8, 1), "gpipe: 0 ranks and 8 micro-batches; needs at least one each"),
    ],
)
def test_a_size_that_a_schedule_does_not_have(
    name: str, size: tuple[int, int, int], message: str
) -> None:
    with pytest.raises(ParplanError, match=message):
        make_schedule(name, *size)


def test_times_only_where_they_matter() -> None:
    with pytest.raises(ParplanError, match="1f1b: does not depend on memory_limit"):
        make_schedule("1f1b", 2, 4, memory_limit=3)
