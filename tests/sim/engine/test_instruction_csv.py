"""The CSV of instruction lists: what is read, what is written, what is refused and where."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parplan.errors import ParplanError
from parplan.sim.programs.instructions import (
    MESSAGE_OPS,
    OPS,
    STAGE_OPS,
    Action,
    CommunicationOp,
    Instruction,
    Overlap,
    parse_action,
    parse_instruction,
    read_csv,
    read_program,
    write_csv,
)

numbers = st.integers(0, 999_999)
actions = st.builds(Action, numbers, st.sampled_from(OPS), numbers)
pairs = st.builds(
    Overlap,
    st.builds(Action, numbers, st.just("F"), numbers),
    st.builds(Action, numbers, st.sampled_from("BI"), numbers),
)
messages = st.builds(CommunicationOp, numbers, st.sampled_from(MESSAGE_OPS), numbers)
stage_wide = st.builds(CommunicationOp, numbers, st.sampled_from(STAGE_OPS), st.none())
instructions = st.one_of(actions, pairs, messages, stage_wide)


@given(st.lists(st.lists(instructions, min_size=1).map(tuple), min_size=1).map(tuple))
def test_what_is_written_is_read(program: tuple[tuple[Instruction, ...], ...]) -> None:
    read = read_program(write_csv(program))
    assert read == program
    assert [[type(i) for i in row] for row in read] == [[type(i) for i in row] for row in program]


def test_the_computations_of_a_program() -> None:
    text = "0UNSHARD,0F0,0SEND_F0,(0F1;0B0)OVERLAP_F_B,0REDUCE_GRAD\n1RECV_F0,1F0,1I0,1W0\n"
    assert write_csv(read_csv(text)) == "0F0,0F1,0B0\n1F0,1I0,1W0\n"


@pytest.mark.parametrize(
    "text",
    ["0F0xyz", "0BW0", "F0", "0F", "-1F0", "0X1", "", "00F0", "0F01", "٣F0", "0f0", "0F 0"],
)
def test_what_is_not_an_action_is_refused(text: str) -> None:
    with pytest.raises(ParplanError, match="is not an action"):
        parse_action(text)


@pytest.mark.parametrize(
    "text",
    [
        "0SEND_F",
        "0UNSHARD0",
        "0SEND_W0",
        "0RECV0",
        "0OVERLAP_F_B",
        "(0F0)OVERLAP_F_B",
        "(0F0;1B0;1W0)OVERLAP_F_B",
        "(0F0;1B0)OVERLAP",
        "(0F0;1B0)",
        "((0F0;1B0)OVERLAP_F_B;1B0)OVERLAP_F_B",
    ],
)
def test_what_is_not_an_instruction_is_refused(text: str) -> None:
    with pytest.raises(ParplanError, match="is not an action"):
        parse_instruction(text)


@pytest.mark.parametrize("text", ["(1B0;0F0)OVERLAP_F_B", "(0F0;0F1)OVERLAP_F_B"])
def test_a_pair_is_a_forward_and_a_backward(text: str) -> None:
    with pytest.raises(ParplanError, match="expected a forward and then a backward"):
        parse_instruction(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0F0,0B0\n1F0,oops\n", "mine.csv: row 2, column 2: 'oops' is not an action such as"),
        ("0F0,,0SEND_F0\n", "mine.csv: row 1, column 2: empty, which lists with communication"),
        ('0F0,"0B0\n', "mine.csv: not a CSV text: "),
        ('"0F0"x,0B0\n', "mine.csv: not a CSV text: "),
    ],
)
def test_errors_say_where(text: str, message: str) -> None:
    with pytest.raises(ParplanError) as error:
        read_csv(text, "mine.csv")
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)


def test_an_empty_cell_is_a_bubble() -> None:
    assert read_csv("0F0,, 0B0\n,1F0,1B0\n") == read_csv("0F0,0B0\n1F0,1B0\n")
