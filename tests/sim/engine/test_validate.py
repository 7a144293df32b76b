"""Why a program is wrong, in one line that names the place."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parplan.errors import ParplanError
from parplan.sim.programs.instructions import CommunicationOp, Program, read_program
from parplan.sim.programs.validate import check_program, explain
from parplan.sim.programs.with_messages import add_communication
from parplan.sim.schedules import make_program

RIGHT = "0F0,0F1,0B0,0B1\n1F0,1F1,1B0,1B1\n"
SENT = (
    "0F0,0SEND_F0,0F1,0SEND_F1,0RECV_B0,0B0,0RECV_B1,0B1\n"
    "1RECV_F0,1F0,1RECV_F1,1F1,1B0,1SEND_B0,1B1,1SEND_B1\n"
)


def problems(text: str) -> list[str]:
    return explain(read_program(text), 2, 2)


@pytest.mark.parametrize("text", [RIGHT, SENT])
def test_nothing_is_wrong(text: str) -> None:
    assert problems(text) == []
    check_program(read_program(text), 2, 2)


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("1F1,", "", "1F1 is missing"),
        (",0B1", "", "0B1 is missing"),
        ("0B1", "0I1", "0W1 is missing"),
        ("0B1", "0W1", "0I1 is missing"),
        (
            "0B1",
            "0I1,0B1",
            "stage 0, micro-batch 1 has B and I; a backward is either B, or I and W",
        ),
        (
            "0B1",
            "0B1,0B1",
            "0B1 is there 2 times: rank 0, instruction 4, and rank 0, instruction 5",
        ),
        (
            "0F1,0B0",
            "0B0,0F1,0F2",
            "rank 0, instruction 4: 0F2 is outside of 2 stages and 2 micro-batches",
        ),
        (
            "0F0,0F1,0B0",
            "0B0,0F1,0F0",
            "rank 0: 0B0 (instruction 1) has to come after 0F0 (instruction 3)",
        ),
        (
            "0B0,0B1",
            "0W0,0I0,0B1",
            "rank 0: 0W0 (instruction 3) has to come after 0I0 (instruction 4)",
        ),
        ("1F0", "1F0,0F0", "stage 0 is on rank 0 (0F0) and on rank 1 (0F0)"),
    ],
)
def test_wrong_computations(old: str, new: str, expected: str) -> None:
    assert expected in problems(RIGHT.replace(old, new, 1))


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("0SEND_F1,", "", "rank 0: 0SEND_F1 is missing, which carries the result of 0F1"),
        ("1RECV_F1,", "", "rank 1: 1RECV_F1 is missing, which carries the result of 0F1"),
        ("0F1,", "0F1,0SEND_F0,", "rank 0, instruction 4: 0SEND_F0 is there twice"),
        ("0F1,", "0F1,0SEND_B0,", "rank 0, instruction 4: 0SEND_B0 has nothing to carry"),
        ("0F0,0SEND_F0", "0SEND_F0,0F0", "rank 0: 0SEND_F0 (instruction 1) is before 0F0"),
        (
            "1RECV_F0,1F0",
            "1F0,1RECV_F0",
            "rank 1: 1RECV_F0 (instruction 2) is after 1F0, which needs it",
        ),
        (
            "0F0,",
            "0F0,1UNSHARD,",
            "rank 0, instruction 2: 1UNSHARD, but stage 1 is not on this rank",
        ),
        (
            "1RECV_F0,1F0,1RECV_F1",
            "1RECV_F1,1RECV_F0,1F0",
            "message 1 from rank 0 to rank 1: rank 0 does 0SEND_F0, but rank 1 does 1RECV_F1",
        ),
    ],
)
def test_wrong_messages(old: str, new: str, expected: str) -> None:
    assert expected in problems(SENT.replace(old, new, 1))


def test_a_deadlock_names_the_ranks_and_their_cycle() -> None:
    assert problems("0F0,0B0,0F1,0B1\n1F0,1F1,1B0,1B1") == [
        "the schedule deadlocks: rank 0 at 0B0 waits for 1B0 of rank 1; "
        "rank 1 at 1F1 waits for 0F1 of rank 0 (cycle 0 -> 1 -> 0)"
    ]


def test_messages_in_both_directions_at_once_deadlock_without_buffers() -> None:
    # Each rank sends before it receives: nothing of this is wrong but the order.
    text = SENT.replace("0RECV_B0,0B0", "0B0").replace("0F1,0SEND_F1", "0F1,0RECV_B0,0SEND_F1")
    text = text.replace("0SEND_F1,", "0SEND_F1,0B0,", 1).replace("0B0,0B0", "0B0")
    text = text.replace("1RECV_F1,1F1,1B0,1SEND_B0", "1B0,1RECV_F1,1SEND_B0,1F1")
    assert problems(text) == [
        "the schedule deadlocks: rank 0 at 0RECV_B0 waits for 1SEND_B0 of rank 1; "
        "rank 1 at 1RECV_F1 waits for 0SEND_F1 of rank 0 (cycle 0 -> 1 -> 0)"
    ]


def test_a_pair_that_needs_its_own_forward_is_refused() -> None:
    assert problems("0F0,0F1,0B0,0B1\n1F0,(1F1;1B1)OVERLAP_F_B,1B0") == [
        "rank 1: 1B1 (instruction 2) has to come after 1F1 (instruction 2)"
    ]


def test_two_copies_of_a_stage_have_micro_batches_of_their_own() -> None:
    both = "0F0,1F1,1B1,0B0\n1F0,0F1,1B0,0B1\n"
    assert explain(read_program(both), 2, 2, bidirectional=True) == []
    assert "stage 1 is on rank 0 (1F1) and on rank 1 (1F0)" in problems(both)
    torn = explain(
        read_program(both.replace("1B1,0B0\n", "0B0\n", 1).replace("0B1", "0B1,1B1")),
        2,
        2,
        bidirectional=True,
    )
    assert torn == ["micro-batch 1 of stage 1 is on rank 0 (1F1) and on rank 1 (1B1)"]


def test_the_first_problem_is_raised_with_the_number_of_others() -> None:
    with pytest.raises(ParplanError, match=r"^0F0 is missing \(and 7 more problems\)$"):
        check_program((), 2, 2)


def remove(program: Program, at: int) -> tuple[Program, bool]:
    """Without one of its instructions, and whether that was communication."""
    places = [(r, i) for r, row in enumerate(program) for i in range(len(row))]
    rank, place = places[at % len(places)]
    row = program[rank]
    rest = (*row[:place], *row[place + 1 :])
    return (*program[:rank], rest, *program[rank + 1 :]), isinstance(row[place], CommunicationOp)


@pytest.mark.parametrize(
    ("name", "virtual"), [("1f1b", 1), ("zb-h1", 1), ("zb-v", 2), ("dualpipe-v", 2)]
)
@given(at=st.integers(0, 10**6), p=st.integers(2, 4))
@settings(deadline=None, max_examples=40)
def test_every_instruction_counts(name: str, virtual: int, at: int, p: int) -> None:
    program = add_communication(make_program(name, p, 2 * p, virtual))
    broken, communication = remove(program, at)
    found = explain(broken, p * virtual, 2 * p)
    assert found
    assert all("is missing" in text for text in found) or not communication


@given(seed=st.randoms(use_true_random=False), p=st.integers(2, 4), m=st.integers(1, 5))
@settings(deadline=None, max_examples=60)
def test_shuffled_lists_are_right_only_if_they_run(seed: object, p: int, m: int) -> None:
    rows = [list(row) for row in make_program("zb-h1", p, m)]
    for row in rows:
        seed.shuffle(row)  # type: ignore[attr-defined]
    program = tuple(map(tuple, rows))
    if explain(program, p, m):
        return
    assert explain(add_communication(program), p, m) == []
