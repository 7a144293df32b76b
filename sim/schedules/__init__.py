"""The pipeline schedules. Each is a function of the pipeline's size, a few of times as well."""

from typing import Any

from parplan.errors import ParplanError, unknown_name
from parplan.sim.programs.instructions import Program, Schedule, computations
from parplan.sim.schedules.catalogue import CATALOGUE, ScheduleKind
from parplan.sim.schedules.zero_bubble import PassTimes

__all__ = [
    "CATALOGUE",
    "MOST_ACTIONS",
    "PassTimes",
    "ScheduleKind",
    "make_program",
    "make_schedule",
    "schedule_kind",
    "why_not",
]

MOST_ACTIONS = 4_000_000
"""Forwards and backwards of all ranks: their lists and times then take about 2 GB."""


def schedule_kind(name: str) -> ScheduleKind:
    """The entry of the catalogue; raises `ParplanError` for an unknown name."""
    if name not in CATALOGUE:
        raise unknown_name("schedule", name, CATALOGUE)
    return CATALOGUE[name]


def why_not(name: str, num_ranks: int, num_micro_batches: int, virtual_stages: int = 1) -> str:
    """The reason why the schedule `name` has no such size, in one line; empty if it has.

    Raises `ParplanError` for an unknown name.
    """
    kind = schedule_kind(name)
    if num_ranks < 1 or num_micro_batches < 1:
        return f"{num_ranks} ranks and {num_micro_batches} micro-batches; needs at least one each"
    allowed = kind.virtual_stages
    if virtual_stages not in allowed:
        wanted = "an even number" if allowed.step == 2 else f"{allowed[0]}"
        if allowed.step == 1 and len(allowed) > 1:
            wanted = f"at least {allowed[0]}"
        return f"virtual_stages {virtual_stages}; needs {wanted}"
    actions = 2 * num_ranks * num_micro_batches * virtual_stages
    if actions > MOST_ACTIONS:
        return (
            f"{num_ranks} ranks x {num_micro_batches} micro-batches x {virtual_stages} virtual "
            f"stages make {actions:,} actions; at most {MOST_ACTIONS:,} can be simulated"
        )
    return kind.limit(num_ranks, num_micro_batches, virtual_stages)


def make_program(
    name: str,
    num_ranks: int,
    num_micro_batches: int,
    virtual_stages: int = 1,
    *,
    times: PassTimes | None = None,
    memory_limit: float | None = None,
    weight_share: float | None = None,
) -> Program:
    """The schedule `name` at this size, with the pairs that it overlaps.

    The keywords are those of `zero_bubble`, for schedules that are made by times. Raises
    `ParplanError` for an unknown name, a size that it does not have, or keywords it does not take.
    """
    kind = schedule_kind(name)
    if reason := why_not(name, num_ranks, num_micro_batches, virtual_stages):
        raise ParplanError(f"{name}: {reason}")
    given = {"times": times, "memory_limit": memory_limit, "weight_share": weight_share}
    options: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
    if options and not kind.by_times:
        raise ParplanError(f"{name}: does not depend on {', '.join(options)}")
    sizes = [num_ranks, num_micro_batches]
    if len(kind.virtual_stages) > 1:
        sizes.append(virtual_stages)
    return kind.function(*sizes, **options)


def make_schedule(
    name: str,
    num_ranks: int,
    num_micro_batches: int,
    virtual_stages: int = 1,
    *,
    times: PassTimes | None = None,
    memory_limit: float | None = None,
    weight_share: float | None = None,
) -> Schedule:
    """The computations of `make_program`, those of overlapped pairs one after the other."""
    program = make_program(
        name,
        num_ranks,
        num_micro_batches,
        virtual_stages,
        times=times,
        memory_limit=memory_limit,
        weight_share=weight_share,
    )
    return computations(program)
