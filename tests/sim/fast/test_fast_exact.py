"""The fast path by hand: limits, tails of reductions, order of the tape, which loop sweeps."""

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from parplan.errors import ParplanError
from parplan.sim.costs import StageCosts
from parplan.sim.engine.engine import simulate, simulate_steps
from parplan.sim.fast import fast, numpy_sweep
from parplan.sim.fast.fast import (
    Kernel,
    fast_many,
    fast_many_ps,
    fast_run,
    fast_step_s,
    fast_steps,
)
from parplan.sim.programs.instructions import read_csv
from parplan.sim.schedules import make_schedule
from parplan.sim.step import sweep
from parplan.sim.step.data_parallel import bucket_spans
from parplan.sim.step.step_tables import reduce_tail, sweep_tables
from parplan.sim.step.sweep import compiled_loops, order_actions, take_over
from parplan.sim.step.tape import lower
from parplan.sim.ticks import PS_PER_S, StageTicks, stage_ticks
from tests.sim.engine.random_lists import random_costs

LOOPS = compiled_loops(load=True)
KERNELS: tuple[Kernel, ...] = ("python", "numpy", *(("numba",) if LOOPS else ()))
LIMIT = 2**62
TAPE = lower(make_schedule("1f1b", 2, 4))


def ticks(**given: object) -> StageTicks:
    """Of three candidates on two stages, zeros but for the second one of them."""
    zeros, ones = np.zeros((3, 2), dtype=np.int64), np.ones((3, 2), dtype=np.int64)
    names = ("send", "latency", "reduce", "optimizer", "gather", "norm_sync")
    arrays: dict[str, Any] = dict.fromkeys(names, zeros)
    arrays |= {"durations": np.zeros((3, 2, 6), dtype=np.int64), "reduce_buckets": ones}
    arrays |= {"reduce_each_micro_batch": zeros > 0, "overlap_share": zeros * 0.0}
    arrays["post_validation"] = zeros > 0
    for name, value in given.items():
        arrays[name] = arrays[name].copy()
        arrays[name][1] = value
    return StageTicks(**arrays)


ALL = ("durations", "send", "latency", "reduce", "optimizer", "gather")


@pytest.mark.parametrize(
    ("names", "times"),
    [
        # On each of two stages: six durations, a reduction, and messages on and back of each of
        # four micro-batches; an optimizer step and a gather.
        (ALL, 2 * (4 * (6 + 1 + 2 + 2) + 1 + 1)),
        (("durations",), 2 * 4 * 6),
        (("send",), 2 * 4 * 2),
        (("latency",), 2 * 4 * 2),
        (("reduce",), 2 * 4),
        (("optimizer",), 2),
        (("gather",), 2),
    ],
)
def test_a_step_of_up_to_62_bits_fits(names: tuple[str, ...], times: int) -> None:
    most = LIMIT // times

    def tables(value: int) -> None:
        sweep_tables(TAPE, ticks(**dict.fromkeys(names, value)), None, 2)

    tables(most - most // 10**9)
    with pytest.raises(ParplanError, match="longer than 64 bits") as over:
        tables(most + most // 10**9)
    said = "is longer than 64 bits of picoseconds can hold; at most 4.61e+06 s"
    assert str(over.value) == f"costs: a step of up to 4.61e+06 s {said}"
    with pytest.raises(ParplanError) as twice:
        tables(2 * most)
    assert str(twice.value) == f"costs: a step of up to 9.22e+06 s {said}"


def test_just_62_bits_fit() -> None:
    sweep_tables(TAPE, ticks(optimizer=2**61), None, 1)
    with pytest.raises(ParplanError, match="longer than 64 bits"):
        sweep_tables(TAPE, ticks(optimizer=2**61 + 512), None, 1)


@pytest.mark.parametrize("kernel", KERNELS)
def test_steps_of_hours_are_those_of_the_engine_to_the_last_bit(kernel: Kernel) -> None:
    """Above 2^53 ps (9,007 s) a time is no float of its own: rounded twice, some would differ."""
    rng, differ = np.random.default_rng(0), 0
    schedule = make_schedule("1f1b", 2, 4)
    costs = [
        [
            StageCosts(
                forward_s=f, input_gradient_s=i, weight_gradient_s=w, send_s=s, latency_s=1e-5
            )
            for f, i, w, s in rng.uniform(500, 5000, (2, 4)).tolist()
        ]
        for _ in range(60)
    ]
    steps = fast_many(TAPE, stage_ticks(costs), kernel=kernel)
    for own, step_s, ps in zip(costs, steps, fast_many_ps(TAPE, stage_ticks(costs)), strict=True):
        assert simulate(schedule, own).step_s == step_s == int(ps) / PS_PER_S > 9007
        differ += float(ps) / PS_PER_S != step_s
    assert differ  # Divided as floats, they are not.


def test_durations_of_single_actions_count_for_the_limit() -> None:
    given = ticks(optimizer=2**60)
    own = np.zeros((3, 16), dtype=np.int64)
    own[1] = 2**61 // 16
    sweep_tables(TAPE, given, own, 1)
    own[1, 3] += 2**20
    with pytest.raises(ParplanError, match="longer than 64 bits"):
        sweep_tables(TAPE, given, own, 1)


def test_shares_of_a_reduction_are_counted_in_64_bits() -> None:
    given = ticks(reduce=[0, 2**40], reduce_buckets=[1, 2**22])
    sweep_tables(TAPE, given, None, 1)
    given.reduce_buckets[1, 1] += 1
    with pytest.raises(ParplanError, match="longer than 64 bits"):
        sweep_tables(TAPE, given, None, 1)


def test_what_does_not_fit_the_tape_is_said() -> None:
    message = "^costs: 3 stages, but the schedule has 2$"
    for other in (1, 3):
        given = stage_ticks([random_costs(0, other)])
        with pytest.raises(ParplanError, match=message.replace("3", str(other))):
            fast_many_ps(TAPE, given)
    for shape in ((1, 15), (1, 17), (2, 16)):
        given, own = stage_ticks([random_costs(0, 2)]), np.zeros(shape, dtype=np.int64)
        with pytest.raises(ParplanError, match="durations_ps: shape") as error:
            fast_many_ps(TAPE, given, durations_ps=own)
        assert str(error.value) == f"durations_ps: shape {list(shape)}, expected [1, 16]"


def tail_of_buckets(backward: int, total: int, buckets: int) -> int:
    return [end for _, end in bucket_spans(0, backward, total, buckets, 0)][-1]


@pytest.mark.parametrize("buckets", [1, 2, 3, 4, 5, 6, 7, 12])
def test_the_tail_of_a_reduction_is_that_of_its_buckets(buckets: int) -> None:
    sizes = [*range(27), 10**6 - 1, 10**6, 10**6 + buckets // 2 - 1, 10**6 + 5, 10**9, 10**9 + 4]
    backward, total = (a.ravel() for a in np.meshgrid(sizes, sizes))
    found = reduce_tail(backward[None], total[None], np.full((1, len(total)), buckets))
    expected = map(tail_of_buckets, backward.tolist(), total.tolist(), [buckets] * len(total))
    assert found.tolist() == [list(expected)]


def test_no_bucket_is_one_bucket() -> None:
    given = (np.array([[5, 7]]), np.array([[3, 9]]))
    assert reduce_tail(*given, np.array([[0, 1]])).tolist() == [[8, 16]]


def test_blocks_hold_candidates_side_by_side() -> None:
    given = ticks(send=[5, 7], latency=[1, 2], durations=4)
    tables = sweep_tables(TAPE, given, None, 2)
    assert tables.lanes == 2
    assert tables.num_candidates == 3
    assert tables.send.tolist() == [[[0, 5], [0, 7]], [[0, 0], [0, 0]]]
    assert tables.duration.tolist() == [[[0, 4]] * 12, [[0, 0]] * 12]
    assert sweep_tables(TAPE, given, None, 3).latency.tolist() == [[[0, 1, 0], [0, 2, 0]]]
    assert len(sweep_tables(TAPE, given, None, 1).send) == 3


def test_no_reductions_are_looked_for_where_there_are_none() -> None:
    assert not sweep_tables(TAPE, ticks(durations=4), None, 1).reduces.any()
    last = sweep_tables(TAPE, ticks(reduce=4), None, 1).reduces
    assert sorted(last.tolist()) == [0] * 14 + [2] * 2
    each = ticks(reduce=4, reduce_each_micro_batch=[True, False])
    tables = sweep_tables(TAPE, each, None, 1)
    assert tables.reduces.tolist() == TAPE.reduces.tolist()
    # Candidate 1 on stage 0: six columns of durations.
    assert tables.each_total[1, :, 0].tolist() == [4] * 6 + [0] * 6
    assert tables.each_tail[1, :, 0].tolist() == [4] * 6 + [0] * 6
    assert tables.last_total[1, :, 0].tolist() == [4] * 12
    assert not tables.each_total[::2].any()


def ordered(first: list[int], producer: list[int], rank_of: list[int]) -> tuple[list[int], int]:
    ranks, entries = len(first) - 1, len(producer)
    at, order = list(first[:-1]), [-1] * entries
    done = order_actions(
        first, producer, rank_of, at, [-1] * ranks, [-1] * ranks, [-1] * ranks, [-1] * ranks, order
    )
    assert sum(at) - sum(first[:-1]) == done
    return order[:done], done


def test_each_rank_goes_on_until_it_lacks_a_message() -> None:
    # 1F1B on two ranks: 0F0 0F1 0B0 0B1, and 1F0 1B0 1F1 1B1.
    producer, rank_of = [-1, -1, 5, 7, 0, -1, 1, -1], [0, 0, 0, 0, 1, 1, 1, 1]
    assert ordered([0, 4, 8], producer, rank_of) == ([0, 1, 4, 5, 6, 7, 2, 3], 8)
    # Rank 0 waits for rank 2, and 1 and 2 for it.
    producer, rank_of = [-1, 5, 3, 0, -1, 0, -1], [0, 0, 0, 1, 1, 2, 2]
    assert ordered([0, 3, 5, 7], producer, rank_of) == ([0, 3, 4, 5, 6, 1, 2], 7)
    # Ranks 0 and 1 wait for rank 2, which waits for 0 before it makes what 1 waits for.
    producer, rank_of = [4, -1, 6, -1, -1, 1, -1], [0, 0, 1, 2, 2, 2, 2]
    assert ordered([0, 2, 3, 7], producer, rank_of) == ([3, 4, 0, 1, 5, 6, 2], 7)
    # Both wait for the other one's second entry.
    assert ordered([0, 2, 4], [3, -1, 1, -1], [0, 0, 1, 1]) == ([], 0)
    assert ordered([0, 2, 4], [-1, 3, 1, -1], [0, 0, 1, 1]) == ([0], 1)


def test_the_tape_by_hand() -> None:
    tape = lower(read_csv("0F0,0F1,0B0,0B1\n1F0,1B0,1F1,1B1"))
    assert tape.place.tolist() == [0, 1, 4, 5, 6, 7, 2, 3]
    assert tape.column.tolist() == [0, 0, 6, 10, 6, 7, 4, 1]
    assert tape.link.tolist() == [0, 0, -1, 1, -1, 1, -1, -1]
    assert tape.reduces.tolist() == [0, 0, 0, 1, 0, 2, 1, 2]
    # The first message is used before the next ones are made.
    assert tape.slot_in.tolist() == [-1, -1, 0, -1, 1, -1, 0, 1]
    assert tape.slot_out.tolist() == [0, 1, -1, 0, -1, 1, -1, -1]
    assert (tape.num_slots, tape.num_links) == (2, 2)


def test_messages_take_the_places_of_earlier_ones() -> None:
    slot = [0, 1, -1, 2, -1, -1]
    take_over([-1, -1, 0, -1, 2, 1], slot)
    assert slot == [0, 1, 0, 2, 0, 1]


def swept_with(monkeypatch: pytest.MonkeyPatch, *, loaded: bool) -> list[str]:
    """What sweeps from now on, as it does so, and what numba is asked for: `load`, or not."""
    seen: list[str] = []

    def named(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            seen.append(name)
            return function(*args)

        return call

    loops = LOOPS and SimpleNamespace(
        LANES=LOOPS.LANES,
        sweep=named("compiled", LOOPS.sweep),
        sweep_blocks=named("blocks", LOOPS.sweep_blocks),
    )

    def loops_as_loaded(*, load: bool) -> Any:
        seen.extend(["load"] * load)
        return loops if load or loaded else None

    monkeypatch.setattr(fast, "compiled_loops", loops_as_loaded)
    monkeypatch.setattr(fast, "sweep", named("plain", sweep.sweep))
    monkeypatch.setattr(numpy_sweep, "sweep_numpy", named("numpy", numpy_sweep.sweep_numpy))
    return seen


def kinds(seen: list[str], kernel: Kernel, count: int) -> set[str]:
    seen.clear()
    candidates = [random_costs(seed, 2) for seed in range(count)]
    ends = fast_many_ps(TAPE, stage_ticks(candidates), kernel=kernel)
    runs = [simulate(make_schedule("1f1b", 2, 4), costs) for costs in candidates]
    assert ends.tolist() == [round(run.step_s * PS_PER_S) for run in runs]
    return set(seen)


def test_each_kernel_sweeps_with_its_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = swept_with(monkeypatch, loaded=False)
    for count in (1, 2, 5):
        assert kinds(seen, "python", count) == {"plain"}
        assert kinds(seen, "numpy", count) == {"numpy"}
    if LOOPS:
        assert kinds(seen, "numba", 1) == {"load", "compiled"}
        assert kinds(seen, "numba", 2) == {"load", "blocks"}
        assert kinds(seen, "numba", 40) == {"load", "blocks"}


def test_few_actions_do_not_load_numba(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = swept_with(monkeypatch, loaded=False)
    assert kinds(seen, "auto", 1) == {"plain"}
    assert kinds(seen, "auto", 3) == {"plain"}
    assert kinds(seen, "auto", 4) == {"numpy"}
    fast_run(make_schedule("1f1b", 2, 4), random_costs(0, 2))
    fast_steps(TAPE, random_costs(0, 2), 2)
    assert set(seen) == {"numpy", "plain"}


@pytest.mark.skipif(not LOOPS, reason="numba is not installed")
def test_numba_is_used_once_it_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = swept_with(monkeypatch, loaded=True)
    assert kinds(seen, "auto", 1) == {"load", "compiled"}
    assert kinds(seen, "auto", 4) == {"load", "blocks"}
    assert kinds(seen, "python", 2) == {"plain"}
    assert kinds(seen, "numpy", 2) == {"numpy"}


def test_numba_is_loaded_for_what_takes_numpy_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []

    def loops(*, load: bool) -> object:
        asked.append(load)
        return object() if load else None

    monkeypatch.setattr(fast, "compiled_loops", loops)
    # 1.7 microseconds an action and 3 nanoseconds a candidate of it, against 3 seconds.
    million = 10**6
    assert fast.kernel_for([(million, 200)]) == "auto"
    assert fast.kernel_for([(million, 600)]) == "numba"
    assert fast.kernel_for([(million, 200), (million, 200)]) == "numba"
    assert fast.kernel_for([(100, 10**5)]) == "auto"
    assert fast.kernel_for([]) == "auto"
    assert asked == [False, True, True, False, False]


def test_numba_that_is_missing_is_said_where_it_is_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(fast, "compiled_loops", lambda *, load: None)
    given = stage_ticks([random_costs(0, 2)])
    for kernel in ("auto", "python", "numpy"):
        fast_many_ps(TAPE, given, kernel=kernel)
    with pytest.raises(ParplanError) as error:
        fast_many_ps(TAPE, given, kernel="numba")
    assert str(error.value) == "kernel: numba is not installed (pip install 'parplan[fast]')"


def test_loops_are_looked_for_without_loading(monkeypatch: pytest.MonkeyPatch) -> None:
    name = "parplan.sim.fast.numba_loops"
    monkeypatch.setitem(sweep.sys.modules, name, "there")
    assert compiled_loops(load=False) == "there"
    monkeypatch.delitem(sweep.sys.modules, name)
    assert compiled_loops(load=False) is None

    def failing(error: type[Exception]) -> Callable[[str], object]:
        def load(_: str) -> object:
            raise error

        return load

    for error in (ImportError, ModuleNotFoundError, RuntimeError):
        monkeypatch.setattr(sweep.importlib, "import_module", failing(error))
        assert compiled_loops(load=True) is None
    monkeypatch.setattr(sweep.importlib, "import_module", failing(ZeroDivisionError))
    with pytest.raises(ZeroDivisionError):
        compiled_loops(load=True)
    monkeypatch.setattr(sweep.importlib, "import_module", lambda given: given)
    assert compiled_loops(load=True) == name


COSTS = [
    StageCosts(forward_s=1.25, input_gradient_s=1.5, weight_gradient_s=0.25, **more)
    for more in (
        {"send_s": 2.5, "latency_s": 0.5, "norm_sync_s": 3.5, "optimizer_s": 0.125},
        {"send_s": 1.5, "latency_s": 7.0, "optimizer_s": 9.0625, "gather_s": 0.5},
    )
]


def test_seconds_are_those_of_the_engine_and_sends_do_not_block_unless_asked_for() -> None:
    schedule = make_schedule("1f1b", 2, 4)
    step_s = simulate(schedule, COSTS).step_s
    assert step_s % 1 != 0
    for kernel in KERNELS:
        assert fast_step_s(TAPE, COSTS, kernel=kernel) == step_s
        found = fast_many(TAPE, stage_ticks([COSTS, random_costs(0, 2)]), kernel=kernel)
        assert found[0] == step_s
    steps = fast_steps(TAPE, COSTS, 1)
    assert (steps.ends_s, steps.end_s) == ((step_s,), step_s)
    assert fast_run(schedule, COSTS) == simulate(schedule, COSTS)
    both = ({"blocking_sends": True}, {"post_validation": True})
    others = [simulate(schedule, COSTS, **only).step_s for only in both]
    assert step_s not in others
    for only, other in zip(both, others, strict=True):
        assert fast_steps(TAPE, COSTS, 1, **only).end_s == other
        assert fast_run(schedule, COSTS, **only).step_s == other
        assert fast_many_ps(TAPE, stage_ticks([COSTS]), **only)[0] / PS_PER_S == other


def test_a_row_has_at_least_one_step() -> None:
    for play in (
        lambda count: fast_steps(TAPE, COSTS, count),
        lambda count: simulate_steps(make_schedule("1f1b", 2, 4), COSTS, count),
    ):
        assert len(play(1).ends_s) == 1
        for count in (0, -1):
            with pytest.raises(ParplanError, match=f"^num_steps: must be at least 1, got {count}$"):
                play(count)


def test_ranks_are_reduced_beside_the_next_backward() -> None:
    # One rank; each backward of 2 s is followed by a reduction of 3 s in one bucket.
    cost = StageCosts(
        forward_s=1.0,
        input_gradient_s=1.0,
        weight_gradient_s=1.0,
        reduce_s=3.0,
        reduce_each_micro_batch=True,
    )
    tape = lower(make_schedule("gpipe", 1, 3))
    for kernel in KERNELS:
        # Forwards until 3; reductions 5 to 8, 8 to 11, 11 to 14.
        assert fast_step_s(tape, [cost], kernel=kernel) == 14.0
        # The last one alone, from 9 on.
        last = replace(cost, reduce_each_micro_batch=False)
        assert fast_step_s(tape, [last], kernel=kernel) == 12.0
        # In two buckets, the first one from 8 to 9.5, beside the second half of the backward.
        assert fast_step_s(tape, [replace(last, reduce_buckets=2)], kernel=kernel) == 11.0
