"""The catalogue of pipeline schedules. Each is a function of the pipeline's size alone."""

from collections.abc import Callable

from parplan.hardware.errors import unknown_name
from parplan.sim.instructions import Schedule
from parplan.sim.schedules.gpipe import gpipe
from parplan.sim.schedules.one_f_one_b import one_f_one_b

ScheduleFunction = Callable[[int, int], Schedule]
"""(pipeline ranks, micro-batches) -> the list of every rank."""

SCHEDULES: dict[str, ScheduleFunction] = {"gpipe": gpipe, "1f1b": one_f_one_b}


def make_schedule(name: str, num_ranks: int, num_micro_batches: int) -> Schedule:
    """The schedule `name` at this size; raises `ParplanError` for an unknown name."""
    if name not in SCHEDULES:
        raise unknown_name("schedule", name, SCHEDULES)
    return SCHEDULES[name](num_ranks, num_micro_batches)
