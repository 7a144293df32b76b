"""The exact step of every plan of a space as an array, without a `Plan` for each."""

from collections.abc import Sequence

from parplan.errors import ParplanError
from parplan.planners.bounds.space_table import SpaceTable
from parplan.planners.costs.cost_cache import SharedCosts
from parplan.planners.costs.plan_costs import ScheduleKey
from parplan.planners.spaces.space import Space
from parplan.sim.cost_model.stage_formula_of_rows import Floats
from parplan.sim.fast.fast import Kernel
from parplan.sim.memory.moments import Moments
from parplan.sim.plan import Plan
from parplan.sim.step.tape import Tape


def all_steps_s(
    space: Space,
    *,
    memory_ratio: float | None = None,
    shared: SharedCosts | None = None,
    kernel: Kernel = "auto",
) -> Floats:
    """Seconds of a step of each plan, in the order of the space; infinite where it does not fit.

    `memory_ratio`: that of the constraints, if None. `shared`: as `run_planner` has it. `kernel`:
    what sweeps the lists (`parplan.sim.fast.fast`).
    Raises `ParplanError` for a space whose plans have variants, of which there are too many.
    """
    if space.constraints.has_variants:
        raise ParplanError("all_steps_s: the plans of the space have variants")
    own = SharedCosts(space.workload, space.cluster) if shared is None else shared
    own.check(space.workload, space.cluster)
    ratio = space.constraints.memory_ratio if memory_ratio is None else memory_ratio

    def lists_of(key: ScheduleKey) -> tuple[Sequence[Moments], Tape]:
        name, ranks, virtual, count = key
        lists = own.lists(
            Plan(num_stages=ranks, num_micro_batches=count, virtual_stages=virtual, schedule=name)
        )
        return lists.moments, lists.tape

    return SpaceTable(space, ratio, own.parts).steps(lists_of, kernel)
