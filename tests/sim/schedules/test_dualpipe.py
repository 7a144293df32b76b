"""DualPipe and DualPipeV: bubble and memory as published, with pairs that overlap."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parplan.sim.programs.instructions import (
    Action,
    CommunicationOp,
    Overlap,
    Program,
    computations,
    parts,
)
from parplan.sim.programs.order import needs, progress, result
from parplan.sim.schedules import make_program


def idle(program: Program, num_stages: int, t: int, together: int) -> int:
    """The most time that a rank waits: F, I and W take `t` each, a pair takes `together`.

    A pair starts when both of its computations can, and ends them at the same time. An action is
    named by stage and micro-batch, so it does not matter on which of two copies of a stage it is.
    """
    now, busy = [0] * len(program), [0] * len(program)
    ended: dict[Action | CommunicationOp, int] = {}
    for rank, instruction in progress(program, num_stages).order:
        start = max([now[rank], *(ended[need] for need in needs(instruction, num_stages))])
        actions = parts(instruction)
        took = together if isinstance(instruction, Overlap) else t * (1 + (actions[0].op == "B"))
        now[rank] = start + took
        busy[rank] += took
        ended.update((result(action), now[rank]) for action in actions)
    return max(max(now) - own for own in busy)


def peak(program: Program) -> int:
    """The most forwards that a rank holds until their backward is done."""
    peaks = []
    for actions in computations(program):
        held = [0]
        for action in actions:
            held.append(held[-1] + {"F": 1, "B": -1, "I": 0, "W": -1}[action.op])
        peaks.append(max(held))
    return max(peaks)


@given(
    half=st.integers(1, 5), more=st.integers(0, 12), t=st.integers(1, 9), saved=st.integers(0, 9)
)
@settings(deadline=None)
def test_bubble_and_activations(half: int, more: int, t: int, saved: int) -> None:
    # Bubble (stages / 2 - 1)(F&B + B - 3 W), activations of stages + 1 chunks: DeepSeek-AI 2024,
    # table 2, and the README of github.com/deepseek-ai/DualPipe; here for F = I = W.
    together = 3 * t - min(saved, t)
    expected = (half - 1) * (together + 2 * t - 3 * t)
    v = make_program("dualpipe-v", half, 2 * half + more, 2)
    both = make_program("dualpipe", 2 * half, 2 * (2 * half + more))
    for program in (v, both):
        assert idle(program, 2 * half, t, together) == expected
        assert peak(program) == 2 * half + 1


@pytest.mark.parametrize("half", [1, 2, 4])
def test_dualpipe_is_dualpipe_v_on_each_rank_and_its_mirror(half: int) -> None:
    m, p = 3 * half, 2 * half
    v = make_program("dualpipe-v", half, m, 2)
    both = make_program("dualpipe", p, 2 * m)
    for rank, actions in enumerate(computations(both)):
        own = computations(v)[min(rank, p - 1 - rank)]
        assert [(a.stage, a.op, a.micro_batch % m) for a in actions] == list(map(tuple, own))
