"""What the engine refuses, and what its check of a played step notices, at the edge."""

from dataclasses import replace

import numpy as np
import pytest

from parplan.errors import ParplanError
from parplan.sim.costs import StageCosts
from parplan.sim.engine.engine import simulate, simulate_steps
from parplan.sim.fast.fast import fast_run, fast_steps
from parplan.sim.programs.arrays import action_arrays
from parplan.sim.programs.instructions import Action, Program, read_csv
from parplan.sim.schedules import make_schedule
from parplan.sim.step.data_parallel import Span
from parplan.sim.step.recording import StepRecord
from parplan.sim.step.self_check import CHECKED, CHECKED_FROM, SPREAD, check_simulated, check_steps
from parplan.sim.step.shared_links import node_links
from parplan.sim.step.step_tables import sweep_tables
from parplan.sim.step.tape import lower
from parplan.sim.ticks import MOST_PS, ticks_of_seconds

LISTS = action_arrays(read_csv("0F0,0F1,0I0,0W0,0B1\n1F0,1F1,1B0,1B1"))
START = [0, 2, 10, 13, 14, 4, 6, 8, 10]
END = [2, 4, 12, 14, 17, 6, 8, 10, 12]
"""In picoseconds; everything that rank 1 does begins when its input is there."""


def check(changes: dict[int, tuple[int, int]], end_ps: int = 17, spans: tuple[Span, ...] = ()):
    start, end = np.array(START), np.array(END)
    for place, times in changes.items():
        start[place], end[place] = times
    whole = {"spans": spans, "end_ps": end_ps}
    check_simulated(LISTS, StepRecord(start=start, end=end, send_start=end, send_end=end, **whole))


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({}, None),
        ({0: (-1, 2)}, "an action ends before it begins"),
        ({0: (2, 1), 1: (2, 2)}, "an action ends before it begins"),
        ({8: (10, 9)}, "an action ends before it begins"),
        # The second forward on rank 0, after the first one from 0 to 2.
        ({1: (1, 3)}, "a rank does two things at once"),
        ({1: (1, 2)}, "a rank does two things at once"),
        ({1: (0, 3)}, "a rank does two things at once"),
        ({1: (0, 1)}, "a rank does two things at once"),
        ({0: (1, 3), 1: (0, 3)}, "a rank does two things at once"),
        ({0: (1, 3), 1: (0, 4)}, "a rank does two things at once"),
        # On rank 1, whose first forward is from 4 to 6.
        ({6: (5, 8)}, "a rank does two things at once"),
        ({8: (9, 12)}, "a rank does two things at once"),
        ({1: (0, 2)}, None),
        ({0: (2, 2), 1: (2, 2)}, None),
        ({0: (0, 0), 1: (0, 0)}, None),
        # The first action of rank 1 is no successor of the last one of rank 0.
        ({4: (14, 16)}, None),
        # The first forward of rank 1 needs that of rank 0, done at 2.
        ({5: (2, 3)}, None),
        ({5: (1, 3)}, "a forward begins before its input is there"),
        ({6: (6, 7), 1: (2, 7)}, "a forward begins before its input is there"),
        # The backward of rank 0, split or whole, needs that of rank 1.
        ({2: (9, 12)}, "a backward begins before its input is there"),
        ({8: (13, 15)}, "a backward begins before its input is there"),
        ({8: (12, 14)}, None),
        # W needs no message.
        ({3: (12, 13)}, None),
    ],
)
def test_times_that_cannot_be_are_noticed(
    changes: dict[int, tuple[int, int]], why: str | None
) -> None:
    if why is None:
        check(changes)
    else:
        with pytest.raises(AssertionError) as error:
            check(changes)
        assert str(error.value) == f"{why}: a mistake of parplan's; please report it"


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_every_stage_has_its_input(stage: int) -> None:
    lists = action_arrays(read_csv("0F0,0B0\n1F0,1B0\n2F0,2B0\n3F0,3B0\n"))

    def times(sooner: int | None) -> StepRecord:
        """Forwards down to stage 3 and backwards up again, one a unit; one begins too soon."""
        start = np.array([0, 7, 1, 6, 2, 5, 3, 4])
        end = start + 1
        if sooner is not None:
            start[sooner] -= 1
        rest = {"send_start": end, "send_end": end, "spans": (), "end_ps": 8}
        return StepRecord(start=start, end=end, **rest)

    check_simulated(lists, times(None))
    for place, why in ((2 * stage, "a forward"), (2 * stage - 1, "a backward")):
        with pytest.raises(AssertionError, match=f"{why} begins before its input is there"):
            check_simulated(lists, times(place))


def test_a_backward_is_not_before_its_forward() -> None:
    lists = action_arrays(read_csv("0B0,0F0\n"))

    def times(*start: int) -> StepRecord:
        begin = np.array(start)
        end = begin + 2
        rest = {"send_start": end, "send_end": end, "spans": (), "end_ps": 9}
        return StepRecord(start=begin, end=end, **rest)

    with pytest.raises(AssertionError, match="a backward begins before its forward is over"):
        check_simulated(lists, times(0, 2))
    other = action_arrays(read_csv("0F0,0B0\n"))
    check_simulated(other, times(0, 2))


def test_a_step_ends_with_its_last_event() -> None:
    check({}, end_ps=17)
    reduction = Span(0, 0, 4, 12, 20)
    check({}, end_ps=20, spans=(reduction,))
    for end_ps, spans in ((16, ()), (19, (reduction,)), (19, (Span(0, 0, 4, 1, 2), reduction))):
        with pytest.raises(AssertionError, match="the step is over before its last event"):
            check({}, end_ps=end_ps, spans=spans)


COST = StageCosts(forward_s=1.0, input_gradient_s=1.0, weight_gradient_s=1.0)


def test_what_the_engine_refuses() -> None:
    schedule = make_schedule("1f1b", 2, 2)
    plays = (simulate, lambda *given, **more: simulate_steps(*given, 2, **more))
    for play in plays:
        for lists, costs in (((), [COST]), (schedule, []), ((), [])):
            with pytest.raises(ParplanError, match="a schedule needs at least one rank and one"):
                play(lists, costs)
        shared = node_links(2, 1)
        play(schedule, [COST] * 2, links=shared)
        play(schedule, [COST] * 2, compute_slowdown_during_messages=1.5)
        for slowdown in (1.5, 2.0):
            both = {"links": shared, "compute_slowdown_during_messages": slowdown}
            with pytest.raises(ParplanError) as error:
                play(schedule, [COST] * 2, **both)
            assert str(error.value) == (
                f"compute_slowdown_during_messages: {slowdown} with shared links; only one of "
                "them can be simulated"
            )


def test_a_rank_that_waits_in_a_later_step_is_named_as_its_list_has_it() -> None:
    # Rank 0 wants the gradient of stage 0 before it makes that of stage 2; rank 2 is done.
    schedule = read_csv(
        "0F0,0F1,0F2,2F0,2F1,2F2,0B0,0B1,0B2,2B0,2B1,2B2\n"
        "1F0,1F1,1F2,1B0,1B1,1B2\n"
        "3F1,3B1,3F0,3B0,3F2,3B2\n"
    )
    blocked = (
        "the schedule deadlocks: rank 0 at 0B0 waits for B of micro-batch 0 for stage 0; "
        "rank 1 at 1B0 waits for B of micro-batch 0 for stage 1"
    )
    with pytest.raises(ParplanError) as error:
        simulate(schedule, [COST] * 4)
    assert str(error.value) == blocked
    with pytest.raises(ParplanError) as error:
        simulate_steps(schedule, [COST] * 4, 2)
    assert str(error.value) == f"{blocked}; rank 2 at 3F1 waits for F of micro-batch 1 for stage 3"


def idle(*places: int) -> Program:
    """One stage and one micro-batch on one of three ranks."""
    own = (Action(0, "F", 0), Action(0, "B", 0))
    return tuple(own if rank in places else () for rank in range(3))


@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize("post", [False, True])
def test_ranks_without_actions_wait_for_the_norm_too(place: int, post: bool) -> None:
    cost = replace(COST, norm_sync_s=0.5, latency_s=0.25, optimizer_s=1.0, reduce_s=2.0)
    run = simulate(idle(place), [cost], post_validation=post)
    # Reduced from 3 to 5; the norm until 5.5 where it is waited for.
    assert run.step_s == (6.0 if post else 6.5)
    assert [(e.rank, e.start_s, e.end_s) for e in run.events if e.name == "norm 0"] == (
        [] if post else [(place, 5.0, 5.5)]
    )
    assert fast_run(idle(place), [cost], post_validation=post) == run
    steps = simulate_steps(idle(place), [cost], 3, post_validation=post)
    assert steps.ends_s == fast_steps(lower(idle(place)), [cost], 3, post_validation=post).ends_s


def test_the_runs_of_a_row_are_those_of_one_step_moved() -> None:
    schedule = make_schedule("gpipe", 1, 2)
    cost = replace(COST, optimizer_s=1.0, reduce_s=2.0)
    steps = simulate_steps(schedule, [cost], 3)
    # Two forwards, two backwards, the reduction, the optimizer.
    assert steps.ends_s == (9.0, 18.0, 27.0)
    assert steps.end_s == 27.0
    assert [run.step_s for run in steps.runs] == [9.0] * 3
    first = [(e.name, e.start_s, e.end_s) for e in steps.runs[0].events]
    assert first == [(e.name, e.start_s, e.end_s) for e in simulate(schedule, [cost]).events]
    for number, run in enumerate(steps.runs):
        moved = [(name, start + 9 * number, end + 9 * number) for name, start, end in first]
        assert [(e.name, e.start_s, e.end_s) for e in run.events] == moved


def steps_pass(steps: np.ndarray, lanes: int = 4) -> bool:
    """Of candidates whose rank 1 has more to do than rank 0: candidate c is busy for 12 + 8 c."""
    own = 1.0 + np.arange(len(steps))[:, None]
    seconds = np.concatenate((own, own + 1.0), axis=1) * 1e-12
    ticks = ticks_of_seconds(
        forward_s=seconds, input_gradient_s=seconds, weight_gradient_s=seconds * 0 + 1e-12
    )
    tape = lower(make_schedule("1f1b", 2, 4))
    tables = sweep_tables(tape, ticks, None, lanes)
    said = ""
    try:
        check_steps(tape, tables, steps)
    except AssertionError as error:
        said = str(error)
    why = "a step is shorter than the work of a rank: a mistake of parplan's; please report it"
    assert said in ("", why)
    return not said


@pytest.mark.parametrize("lanes", [1, 3, 1024])
def test_a_step_takes_no_less_than_the_work_of_its_busiest_rank(lanes: int) -> None:
    # Four forwards of c + 2, and as many backwards of c + 3, on rank 1.
    least = 4 * (2 * np.arange(7) + 5)
    assert steps_pass(least, lanes)
    for candidate in range(7):
        less = least.copy()
        less[candidate] -= 1
        assert not steps_pass(less, lanes)


def test_few_candidates_are_not_checked() -> None:
    assert CHECKED_FROM == 4
    assert steps_pass(np.zeros(3, dtype=np.int64))
    assert not steps_pass(np.zeros(4, dtype=np.int64))


def test_of_many_candidates_some_and_the_fastest_are_checked() -> None:
    assert CHECKED == 256
    for count in (256, 257, 1000):
        least = 4 * (2 * np.arange(count) + 5)
        assert steps_pass(least)
        some = {k * SPREAD % count for k in range(256)}
        assert len(some) == 256
        others = set(range(count)) - some
        for candidate, checked in ((max(some), True), *((c, False) for c in list(others)[-1:])):
            less = least.copy()
            less[candidate] -= 1
            assert steps_pass(less) != checked, (count, candidate)
            less[candidate] = 0
            assert not steps_pass(less)


def test_a_step_is_a_time() -> None:
    tape = lower(make_schedule("1f1b", 2, 4))
    zeros = np.zeros((4, 2))
    ticks = ticks_of_seconds(forward_s=zeros, input_gradient_s=zeros, weight_gradient_s=zeros)
    tables = sweep_tables(tape, ticks, None, 4)
    check_steps(tape, tables, np.array([0, 1, MOST_PS, 5]))
    for wrong in (-1, MOST_PS + 1):
        with pytest.raises(AssertionError) as error:
            check_steps(tape, tables, np.array([0, 1, wrong, 5]))
        said = "the step of a candidate is not a time: a mistake of parplan's; please report it"
        assert str(error.value) == said
