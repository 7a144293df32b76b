"""DualPipe and DualPipeV: forwards and backwards of two streams of micro-batches overlap.

DualPipe: DeepSeek-AI 2024 (DeepSeek-V3, arXiv:2412.19437, section 3.2.1) and its published code
(github.com/deepseek-ai/DualPipe), whose eight steps are followed here. DualPipeV halves it: what
DualPipe does on a rank and its mirror image, one rank does with two stages (torch's
ScheduleDualPipeV). A pair of forward and backward is an `Overlap`.
"""

from collections import defaultdict, deque
from collections.abc import Iterator

from parplan.errors import ParplanError
from parplan.sim.programs.instructions import Action, Instruction, Overlap, Program
from parplan.sim.schedules.limits import odd_or_few_for_dualpipe, too_few_for_dualpipe_v


def dualpipe_v(num_ranks: int, num_micro_batches: int) -> Program:
    """Rank r holds the stages r and 2p - 1 - r.

    Raises `ParplanError` for fewer micro-batches than stages.
    """
    if reason := too_few_for_dualpipe_v(num_ranks, num_micro_batches, 2):
        raise ParplanError(f"dualpipe-v: {reason}")
    return tuple(
        _rank(rank, num_ranks, num_micro_batches, (rank, 0), (2 * num_ranks - 1 - rank, 0))
        for rank in range(num_ranks)
    )


def dualpipe(num_ranks: int, num_micro_batches: int) -> Program:
    """The first half of the micro-batches enters at rank 0, the second half at rank p - 1.

    Ranks r and p - 1 - r hold a copy each of the stages r and p - 1 - r, whose gradients have to
    be summed over both. Raises `ParplanError` for odd numbers, or fewer than 2p micro-batches.
    """
    if reason := odd_or_few_for_dualpipe(num_ranks, num_micro_batches, 1):
        raise ParplanError(f"dualpipe: {reason}")
    half = num_micro_batches // 2
    lists = []
    for rank in range(num_ranks):
        mirror = num_ranks - 1 - rank
        first, second = (rank, 0), (mirror, half)
        if rank > mirror:
            first, second = second, first
        lists.append(_rank(min(rank, mirror), num_ranks // 2, half, first, second))
    return tuple(lists)


def _rank(
    rank: int, num_ranks: int, num_micro_batches: int, a: tuple[int, int], b: tuple[int, int]
) -> tuple[Instruction, ...]:
    """One rank with its streams a and b: each the stage and its first micro-batch."""
    done: dict[tuple[str, str], int] = defaultdict(int)
    late: deque[Action] = deque()

    def action(step: str) -> Action:
        stage, first = a if step[0] == "a" else b
        kind = (step[0], "F" if step[1] == "F" else "backward")
        done[kind] += 1
        return Action(stage, step[1], first + done[kind] - 1)

    instructions: list[Instruction] = []
    for step in _steps(rank, num_ranks, num_micro_batches):
        if step == "W":
            instructions.append(late.popleft())
        elif "+" in step:
            forward, backward = step.split("+")
            instructions.append(Overlap(action(forward), action(backward)))
        else:
            single = action(step)
            instructions.append(single)
            if single.op == "I":
                late.append(single._replace(op="W"))
    return tuple(instructions)


def _steps(rank: int, num_ranks: int, num_micro_batches: int) -> Iterator[str]:
    """Stream and operation in order; W: the oldest weight gradient; +: together."""
    ahead, own = num_ranks - rank - 1, rank + 1
    steady = num_micro_batches - 2 * num_ranks + own
    yield from ["aF"] * (2 * ahead)
    yield from ["aF", "bF"] * own
    yield from ["bI", "W", "bF"] * ahead
    # The rank at the turn has nothing to overlap its first pair with.
    yield from ["aF", "bB"] if ahead == 0 else ["aF+bB"]
    yield from ["bF+aB", "aF+bB"] * (steady - 1)
    yield "bF+aB"
    yield from ["bB", "bF+aB"] * ahead
    # Half of the last backwards are split, so that their weight gradients fill the end.
    for place in range(2 * own):
        yield "ba"[place % 2] + ("B" if place < own else "I")
    yield from ["W", "aI"] * ahead
    yield from ["W"] * own
