"""Schedules by hand and as they were: sizes at the edge, whole messages, orders of the plays."""

import hashlib
import itertools
import math

import pytest

from parplan.errors import ParplanError
from parplan.sim.programs.instructions import Schedule, computations, read_csv, write_csv
from parplan.sim.schedules import (
    CATALOGUE,
    MOST_ACTIONS,
    PassTimes,
    make_program,
    make_schedule,
    schedule_kind,
    why_not,
)
from parplan.sim.schedules.dualpipe import dualpipe, dualpipe_v
from parplan.sim.schedules.hanayo import hanayo
from parplan.sim.schedules.interleaved import interleaved_1f1b
from parplan.sim.schedules.interleaved_zb import interleaved_zb
from parplan.sim.schedules.limits import check_group, default_group
from parplan.sim.schedules.placement import rank_of_stage, stages_of_rank
from parplan.sim.schedules.zb_handcrafted import delayed_weights
from parplan.sim.schedules.zero_bubble import (
    _Simulation,
    occupied_time,
    peak_micro_batches,
    zero_bubble,
)

MANY = 10**6


@pytest.mark.parametrize(
    ("name", "size", "reason"),
    [
        ("gpipe", (1, 1, 1), ""),
        ("gpipe", (0, 1, 1), "0 ranks and 1 micro-batches; needs at least one each"),
        ("gpipe", (1, 0, 1), "1 ranks and 0 micro-batches; needs at least one each"),
        ("gpipe", (-1, 3, 1), "-1 ranks and 3 micro-batches; needs at least one each"),
        ("gpipe", (2, 2, 0), "virtual_stages 0; needs 1"),
        ("gpipe", (2, 2, 2), "virtual_stages 2; needs 1"),
        ("zb-v", (2, 2, 1), "virtual_stages 1; needs 2"),
        ("zb-v", (2, 2, 3), "virtual_stages 3; needs 2"),
        ("zb-v", (2, 2, 2), ""),
        ("dualpipe-v", (2, 4, 4), "virtual_stages 4; needs 2"),
        ("looped-bfs", (2, 2, 0), "virtual_stages 0; needs at least 1"),
        ("looped-bfs", (2, 2, 1), ""),
        ("looped-bfs", (2, 2, 7), ""),
        ("hanayo", (2, 2, 0), "virtual_stages 0; needs an even number"),
        ("hanayo", (2, 2, 1), "virtual_stages 1; needs an even number"),
        ("hanayo", (2, 2, 3), "virtual_stages 3; needs an even number"),
        ("hanayo", (2, 2, 2), ""),
        ("hanayo", (2, 2, 4), ""),
        ("gpipe", (2, MANY, 1), ""),
        ("looped-bfs", (2, MANY // 2, 2), ""),
        (
            "gpipe",
            (2, MANY + 1, 1),
            "2 ranks x 1000001 micro-batches x 1 virtual stages make 4,000,004 actions; at most "
            "4,000,000 can be simulated",
        ),
        (
            "looped-bfs",
            (4, MANY, 3),
            "4 ranks x 1000000 micro-batches x 3 virtual stages make 24,000,000 actions; at most "
            "4,000,000 can be simulated",
        ),
        ("interleaved-1f1b", (4, 3, 2), ""),
        ("interleaved-1f1b", (4, 7, 2), ""),
        ("interleaved-1f1b", (4, 8, 2), ""),
        (
            "interleaved-1f1b",
            (4, 9, 2),
            "9 micro-batches on 4 ranks do not make 2 equal rounds; take a multiple of 4, such as "
            "8",
        ),
        ("interleaved-1f1b", (4, 10, 2), ""),
        (
            "interleaved-zb",
            (3, 11, 2),
            "11 micro-batches on 3 ranks do not make 3 equal rounds; take a multiple of 3, such as "
            "9",
        ),
        ("dualpipe-v", (4, 8, 2), ""),
        (
            "dualpipe-v",
            (4, 7, 2),
            "7 micro-batches; needs at least as many as there are stages, 8",
        ),
        ("dualpipe", (2, 4, 1), ""),
        ("dualpipe", (4, 10, 1), ""),
        ("dualpipe", (1, 8, 1), "1 ranks; needs an even number"),
        ("dualpipe", (5, 18, 1), "5 ranks; needs an even number"),
        (
            "dualpipe",
            (4, 9, 1),
            "9 micro-batches; needs an even number of at least 8 for 4 ranks",
        ),
        (
            "dualpipe",
            (4, 6, 1),
            "6 micro-batches; needs an even number of at least 8 for 4 ranks",
        ),
    ],
)
def test_why_a_size_is_not_there(name: str, size: tuple[int, int, int], reason: str) -> None:
    assert why_not(name, *size) == reason
    if reason:
        for make in (make_program, make_schedule):
            with pytest.raises(ParplanError) as error:
                make(name, *size)
            assert str(error.value) == f"{name}: {reason}"


def test_one_stage_per_rank_is_what_is_asked_for_unless_said_otherwise() -> None:
    assert why_not("looped-bfs", 2, 2) == ""
    assert make_program("looped-bfs", 2, 2) == make_program("looped-bfs", 2, 2, 1)
    assert make_schedule("looped-bfs", 2, 2) == make_schedule("looped-bfs", 2, 2, 1)
    assert MOST_ACTIONS == 4_000_000


def test_functions_refuse_what_the_catalogue_refuses() -> None:
    for play, size, message in (
        (dualpipe_v, (2, 3), "dualpipe-v: 3 micro-batches; needs at least as many as there are"),
        (dualpipe, (2, 3), "dualpipe: 3 micro-batches; needs an even number of at least 4 for 2"),
        (dualpipe, (3, 6), "dualpipe: 3 ranks; needs an even number"),
        (hanayo, (2, 2, 3), "hanayo: virtual_stages 3; needs an even number"),
        (interleaved_1f1b, (2, 5, 2), "group_size: 2 of 5 micro-batches on 2 ranks; every group"),
        (interleaved_zb, (2, 5, 2), "group_size: 2 of 5 micro-batches on 2 ranks; every group"),
    ):
        with pytest.raises(ParplanError) as error:
            play(*size)
        assert str(error.value).startswith(message)


def test_what_the_catalogue_says_of_each_schedule() -> None:
    flags = ("splits_backward", "overlaps", "whole_rounds", "by_times")
    said = {
        name: (kind.placement, {flag for flag in flags if getattr(kind, flag)})
        for name, kind in CATALOGUE.items()
    }
    assert said == {
        "gpipe": ("loop", set()),
        "1f1b": ("loop", set()),
        "interleaved-1f1b": ("loop", {"whole_rounds"}),
        "looped-bfs": ("loop", set()),
        "hanayo": ("v", set()),
        "zb-h1": ("loop", {"splits_backward"}),
        "zb-h2": ("loop", {"splits_backward"}),
        "zb-auto": ("loop", {"splits_backward", "by_times"}),
        "interleaved-zb": ("loop", {"splits_backward", "whole_rounds"}),
        "zb-v": ("v", {"splits_backward"}),
        "dualpipe-v": ("v", {"splits_backward", "overlaps"}),
        "dualpipe": ("bidirectional", {"splits_backward", "overlaps"}),
    }


def test_unknown_names() -> None:
    assert schedule_kind("zb-v") is CATALOGUE["zb-v"]
    for call in (schedule_kind, lambda name: why_not(name, 2, 2)):
        with pytest.raises(ParplanError, match="zb-w"):
            call("zb-w")


@pytest.mark.parametrize(
    ("ranks", "micro_batches", "group"),
    [(4, 3, 3), (4, 4, 4), (4, 7, 7), (4, 8, 4), (4, 10, 5), (2, 7, 2), (1, 5, 1), (3, 12, 3)],
)
def test_groups_are_equal_rounds_of_about_as_many_as_ranks(
    ranks: int, micro_batches: int, group: int
) -> None:
    assert default_group(ranks, micro_batches) == group


@pytest.mark.parametrize(
    ("ranks", "micro_batches", "group", "fits"),
    [
        (2, 4, 2, True),
        (2, 4, 1, False),
        (2, 4, 3, False),
        (2, 5, 3, True),
        (2, 4, 4, True),
        (2, 4, 9, True),
        (4, 3, 3, True),
        (4, 3, 2, False),
        (4, 9, 5, True),
        (4, 8, 5, False),
        (4, 12, 4, True),
        (4, 13, 6, False),
    ],
)
def test_no_group_is_smaller_than_the_ranks(
    ranks: int, micro_batches: int, group: int, fits: bool
) -> None:
    if fits:
        check_group(ranks, micro_batches, group)
    else:
        with pytest.raises(ParplanError) as error:
            check_group(ranks, micro_batches, group)
        assert str(error.value) == (
            f"group_size: {group} of {micro_batches} micro-batches on {ranks} ranks; every group, "
            f"the last one too, needs at least {ranks}"
        )


def test_placements_by_hand() -> None:
    stages = range(9)
    assert [rank_of_stage("loop", 3, s) for s in stages] == [0, 1, 2, 0, 1, 2, 0, 1, 2]
    assert [rank_of_stage("v", 3, s) for s in stages] == [0, 1, 2, 2, 1, 0, 0, 1, 2]
    assert [rank_of_stage("v", 3, s, True) for s in stages] == [0, 1, 2, 2, 1, 0, 0, 1, 2]
    assert [rank_of_stage("loop", 3, s, True) for s in range(3)] == [0, 1, 2]
    assert [rank_of_stage("bidirectional", 4, s) for s in range(4)] == [0, 1, 2, 3]
    assert [rank_of_stage("bidirectional", 4, s, True) for s in range(4)] == [3, 2, 1, 0]
    assert [stages_of_rank("loop", 3, r, 3) for r in range(3)] == [(0, 3, 6), (1, 4, 7), (2, 5, 8)]
    assert [stages_of_rank("v", 3, r, 3) for r in range(3)] == [(0, 5, 6), (1, 4, 7), (2, 3, 8)]
    assert [stages_of_rank("bidirectional", 4, r, 1) for r in range(4)] == [
        *[(0, 3), (1, 2), (1, 2), (0, 3)]
    ]


def test_lists_by_hand() -> None:
    assert write_csv(make_schedule("looped-bfs", 2, 2, 2)) == (
        "0F0,0F1,2F0,2F1,2B1,2B0,0B1,0B0\n1F0,1F1,3F0,3F1,3B1,3B0,1B1,1B0\n"
    )
    assert write_csv(make_schedule("interleaved-1f1b", 2, 2, 2)) == (
        "0F0,0F1,2F0,2F1,2B0,2B1,0B0,0B1\n1F0,1F1,3F0,3B0,3F1,3B1,1B0,1B1\n"
    )
    assert write_csv(make_schedule("interleaved-zb", 2, 2, 2)) == (
        "0F0,0F1,2F0,2F1,2I0,2W0,2I1,2W1,0I0,0W0,0I1,0W1\n"
        "1F0,1F1,3F0,3I0,3F1,3I1,3W0,1I0,3W1,1I1,1W0,1W1\n"
    )
    steps = delayed_weights(3, 4, warm_up=2, delay=1)
    assert " ".join(a.op + str(a.micro_batch) for a in steps) == (
        "F0 F1 I0 F2 I1 W0 F3 I2 W1 I3 W2 W3"
    )
    assert {a.stage for a in steps} == {3}
    late = delayed_weights(0, 2, warm_up=5, delay=3)
    assert " ".join(a.op + str(a.micro_batch) for a in late) == "F0 F1 I0 I1 W0 W1"


@pytest.mark.parametrize("field", ["forward", "input_gradient", "weight_gradient", "message"])
def test_times_of_passes_at_the_edge(field: str) -> None:
    for wrong in (-1e-9, -1.0, math.inf, math.nan, *([0.0] if field != "message" else [])):
        with pytest.raises(ParplanError) as error:
            PassTimes(**{field: wrong})
        text = "times: passes have to take time, messages not less than 0: PassTimes("
        assert str(error.value).startswith(text)
    PassTimes(**{field: 1e-9})
    PassTimes(message=0.0)
    assert PassTimes() == PassTimes(
        forward=1.0, input_gradient=1.0, weight_gradient=1.0, message=0.0
    )


def test_limits_of_memory_at_the_edge() -> None:
    for options, said in (
        ({"memory_limit": 0.999}, "memory_limit 0.999, weight_share 1"),
        ({"memory_limit": math.nan}, "memory_limit nan, weight_share 1"),
        ({"weight_share": -0.001}, "memory_limit 4, weight_share -0.001"),
        ({"weight_share": 1.001}, "memory_limit 4, weight_share 1.001"),
    ):
        with pytest.raises(ParplanError) as error:
            zero_bubble(2, 3, **options)
        assert str(error.value) == f"{said}; need at least 1, and a share from 0 to 1"
    for share in (0.0, 1.0):
        least = zero_bubble(2, 3, memory_limit=1, weight_share=share)
        assert peak_micro_batches(least, share) == 1
    assert zero_bubble(3, 7) == zero_bubble(3, 7, memory_limit=6.0, weight_share=1.0)
    assert zero_bubble(3, 7) == zero_bubble(3, 7, times=PassTimes())
    times = PassTimes(message=0.6)
    default = zero_bubble(6, 20, times=times)
    assert default == zero_bubble(6, 20, times=times, memory_limit=12.0)
    for other in (8.0, 11.0, 13.0, 36.0):
        assert default != zero_bubble(6, 20, times=times, memory_limit=other)
    assert make_schedule("zb-auto", 3, 7, memory_limit=2, weight_share=0.5) == zero_bubble(
        3, 7, memory_limit=2, weight_share=0.5
    )
    with pytest.raises(ParplanError) as error:
        make_program("zb-h1", 2, 2, times=PassTimes(), weight_share=0.5)
    assert str(error.value) == "zb-h1: does not depend on times, weight_share"


def test_what_a_list_holds_and_how_long_it_is_occupied_by_hand() -> None:
    schedule = read_csv("0F0,0F1,0I0,0I1,0W0,0W1\n1F0,1B0,1F1,1B1")
    assert peak_micro_batches(schedule) == 2
    assert peak_micro_batches(schedule, 0.25) == 2
    assert peak_micro_batches(read_csv("0F0,0I0,0F1,0I1,0W0,0W1"), 0.25) == 1.25
    assert peak_micro_batches(read_csv("0F0,0I0,0F1,0I1,0W0,0W1"), 1.0) == 2
    assert peak_micro_batches(read_csv("0F0,0B0,0F1,0F2,0B1,0B2"), 0.5) == 2
    times = PassTimes(forward=2.0, input_gradient=3.0, weight_gradient=5.0, message=0.5)
    # Rank 1 begins at 2.5; its backwards end at 12.5 and 22.5. Rank 0 ends at 23 + 3 + 5 + 5.
    assert occupied_time(schedule, times) == 36.0
    # Alone, rank 1 is busy from 2.5 to 22.5.
    assert occupied_time(read_csv("0F0,0B0"), times) == 10.0


VARIANTS = list(itertools.product((False, True), repeat=2))


def test_the_plays_know_how_long_they_are_occupied() -> None:
    for (p, m), limit, share, message in itertools.product(
        [(1, 3), (3, 5), (4, 9)], [1.0, 2.5, 6.0], [0.0, 0.4, 1.0], [0.0, 0.3]
    ):
        times = PassTimes(forward=1.1, input_gradient=1.7, weight_gradient=0.6, message=message)
        for variant in VARIANTS:
            play = _Simulation(p, m, times, limit, share, *variant)
            lists = tuple(map(tuple, play.actions))
            assert play.occupied_time() == pytest.approx(occupied_time(lists, times), rel=1e-12)
            assert peak_micro_batches(lists, share) <= limit + 1e-9


def test_a_play_by_hand() -> None:
    # Two ranks, one unit each. Rank 0 is ahead by three forwards, until its first gradient is
    # there at 3; then one comes every two units, and a weight gradient fills the other one. Rank 1
    # has a forward or a gradient at every instant until 7.
    play = _Simulation(2, 3, PassTimes(), 4.0, 1.0, False, False)
    lists = [" ".join(a.op + str(a.micro_batch) for a in rank) for rank in play.actions]
    assert lists == ["F0 F1 F2 I0 W0 I1 W1 I2 W2", "F0 I0 F1 I1 F2 I2 W0 W1 W2"]
    assert play.began == [0.0, 1.0]
    assert play.free == [9.0, 10.0]
    assert play.occupied_time() == 9.0


def digest(schedules: list[Schedule]) -> str:
    return hashlib.sha256("\n".join(map(write_csv, schedules)).encode()).hexdigest()[:16]


def test_the_orders_of_the_greedy_plays_are_as_they_were() -> None:
    # Not from elsewhere: a change of the heuristics changes plans, and is to be seen.
    sizes = [(1, 1), (1, 4), (2, 1), (2, 5), (3, 8), (4, 3), (4, 12), (5, 11)]
    passes = [
        PassTimes(),
        PassTimes(message=0.25),
        PassTimes(forward=1.0, input_gradient=2.0, weight_gradient=0.5, message=0.1),
        PassTimes(forward=1.3, input_gradient=0.7, weight_gradient=1.9, message=0.6),
    ]
    simulated = [
        tuple(map(tuple, _Simulation(p, m, times, limit, share, *variant).actions))
        for (p, m), times, limit, share, variant in itertools.product(
            sizes, passes, (1.0, 2.0, 3.5, 8.0), (0.3, 1.0), VARIANTS
        )
    ]
    assert len(set(simulated)) > 100
    assert digest(simulated) == "f59ff47b462af74a"
    waves = [hanayo(p, m, v) for (p, m), v in itertools.product(sizes, (2, 4, 6))]
    assert digest(waves) == "0ba251f44b584e54"


@pytest.mark.parametrize("name", CATALOGUE)
def test_so_many_go_forward_before_the_first_comes_back(name: str) -> None:
    """What is said of that without lists is never more than what they have."""
    kind, seen = schedule_kind(name), 0
    for ranks in range(2, 9):
        for count in (1, 2, ranks - 1, ranks, ranks + 1, 2 * ranks, 4 * ranks, 5 * ranks + 1):
            for virtual in (1, 2):
                if virtual not in kind.virtual_stages or why_not(name, ranks, count, virtual):
                    continue
                for rank, actions in enumerate(
                    computations(make_program(name, ranks, count, virtual))
                ):
                    ops = "".join(op for _, op, _ in actions)
                    first = min(ops.find(op) for op in "BI" if op in ops)
                    held = len({(s, m) for s, op, m in actions[:first] if op == "F"})
                    assert held >= min(count, kind.ahead(ranks, rank))
                    seen += 1
    assert seen > 20
