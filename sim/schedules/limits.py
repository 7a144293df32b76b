"""Size limits of the schedules, each with its reason in one line, and sizes that hold as much.

A schedule that bounds what is on its way repeats itself once it is full: with more micro-batches
each rank passes through the same moments again. `as_many` to `repeated` take (ranks, micro-batches,
virtual stages) and give a number of micro-batches, no larger, whose largest moments
(`parplan.sim.memory.moments`) are equal.
"""

from functools import lru_cache

from parplan.errors import ParplanError
from parplan.sim.schedules.hanayo import steady_state


def default_group(num_ranks: int, num_micro_batches: int) -> int:
    """Micro-batches that go through a chunk before the next chunk's turn, as torch has it.

    As many equal rounds as there are whole ones of `num_ranks`.
    """
    return num_micro_batches // max(1, num_micro_batches // num_ranks)


def unequal_rounds(num_ranks: int, num_micro_batches: int, virtual_stages: int) -> str:
    """Interleaved schedules: equal rounds of about as many micro-batches as ranks."""
    rounds = max(1, num_micro_batches // num_ranks)
    if num_micro_batches % rounds == 0:
        return ""
    below = num_micro_batches - num_micro_batches % num_ranks
    return (
        f"{num_micro_batches} micro-batches on {num_ranks} ranks do not make {rounds} equal "
        f"rounds; take a multiple of {num_ranks}, such as {below}"
    )


def too_few_for_dualpipe_v(num_ranks: int, num_micro_batches: int, virtual_stages: int) -> str:
    """DualPipeV: at least as many micro-batches as stages."""
    if num_micro_batches >= 2 * num_ranks:
        return ""
    return (
        f"{num_micro_batches} micro-batches; needs at least as many as there are stages, "
        f"{2 * num_ranks}"
    )


def odd_or_few_for_dualpipe(num_ranks: int, num_micro_batches: int, virtual_stages: int) -> str:
    """DualPipe: even numbers of ranks and micro-batches, at least two micro-batches per rank."""
    if num_ranks % 2:
        return f"{num_ranks} ranks; needs an even number"
    if num_micro_batches % 2 or num_micro_batches < 2 * num_ranks:
        return (
            f"{num_micro_batches} micro-batches; needs an even number of at least "
            f"{2 * num_ranks} for {num_ranks} ranks"
        )
    return ""


def check_group(num_ranks: int, num_micro_batches: int, group: int) -> None:
    """Raise `ParplanError` unless groups of so many micro-batches can be interleaved."""
    rest = num_micro_batches % group
    if group < min(num_ranks, num_micro_batches) or 0 < rest < num_ranks:
        raise ParplanError(
            f"group_size: {group} of {num_micro_batches} micro-batches on {num_ranks} ranks; every "
            f"group, the last one too, needs at least {num_ranks}"
        )


LONG_START = 8
"""Micro-batches per rank up to which whole lists take less time than to look for a steady state."""


def as_many(num_ranks: int, num_micro_batches: int, virtual_stages: int) -> int:
    """As many micro-batches: nothing is known of the schedule."""
    return num_micro_batches


def one_per_rank(num_ranks: int, num_micro_batches: int, virtual_stages: int) -> int:
    """Full with a micro-batch for each rank (1F1B, ZB-H1)."""
    return min(num_micro_batches, num_ranks)


def two_per_rank(num_ranks: int, num_micro_batches: int, virtual_stages: int) -> int:
    """Full with two micro-batches for each rank (ZB-H2, ZB-V, DualPipe, DualPipe-V)."""
    return min(num_micro_batches, 2 * num_ranks)


def two_rounds(num_ranks: int, num_micro_batches: int, virtual_stages: int) -> int:
    """Full after one of several equal rounds (interleaved schedules)."""
    group = default_group(num_ranks, num_micro_batches)
    return min(num_micro_batches, 2 * group)


def repeated(num_ranks: int, num_micro_batches: int, virtual_stages: int) -> int:
    """Without whole periods of the steady state, where one is found (waves)."""
    few = num_micro_batches <= LONG_START * num_ranks
    found = None if few else _steady_state(num_ranks, virtual_stages)
    if found is None or num_micro_batches <= found.entered:
        return num_micro_batches
    return num_micro_batches - (num_micro_batches - found.entered) // found.period * found.period


_steady_state = lru_cache(maxsize=1024)(steady_state)
