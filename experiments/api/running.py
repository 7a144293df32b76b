"""`parplan.execute` and `parplan.calibrate`: what needs torch and this machine."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from parplan._checked import value_of
from parplan._files import is_folder
from parplan.errors import ParplanError, short
from parplan.experiments.api.inputs import PathLike, in_python, number_of, path_of
from parplan.hardware.estimates.profile_file import check_place
from parplan.sim.models.find import find_model
from parplan.sim.models.model import Model
from parplan.sim.plan import Plan
from parplan.sim.workload import Workload

if TYPE_CHECKING:
    from parplan.backend.execution.result import Execution
    from parplan.hardware.estimates.profile import Profile


@in_python
def execute(
    workload: Workload,
    processes: int = 2,
    plans: Sequence[Plan] = (),
    *,
    repeats: int = 8,
    seed: int = 0,
    timeout_s: float = 1800.0,
) -> "Execution":
    """Run plans on this machine and compare each with its prediction, as `parplan execute` does.

    `plans`: those to run beside the one that is chosen (default: data parallel, and pipelines).
    `repeats`: timed steps of each. Returns `executed`, each with `predicted` and `measured` runs.
    Raises `ParplanError` for what cannot be executed, `RunFailedError` where a worker dies.
    """
    if not isinstance(workload, Workload):
        raise ParplanError(f"workload: expected a parplan.Workload, got {short(workload)}")
    number_of("processes", processes)
    number_of("repeats", repeats)
    number_of("seed", seed, 0)
    value_of(float, timeout_s, "timeout_s")
    if isinstance(plans, str) or not isinstance(plans, Sequence):
        raise ParplanError(f"plans: expected a list of parplan.Plan, got {short(plans)}")
    for number, plan in enumerate(plans):
        if not isinstance(plan, Plan):
            raise ParplanError(f"plans[{number}]: expected a parplan.Plan, got {short(plan)}")
    from parplan.backend.execution.execute import execute as run_plans
    from parplan.experiments.commands.run.execute import default_plans

    own = list(plans) or default_plans(workload, processes)
    return run_plans(workload, processes, own, repeats=repeats, seed=seed, timeout_s=timeout_s)


@in_python
def calibrate(
    path: PathLike = "profile.json",
    *,
    model: Model | PathLike = "gpt-tiny",
    seq_len: int = 64,
    processes: int | None = None,
    quick: bool = False,
    budget_s: float | None = None,
) -> "Profile":
    """Measure this machine and write its profile, as `parplan calibrate` does.

    `model`, `seq_len`: whose layers are timed. `processes`: that measure together. `budget_s`: how
    long it may take. Plan for the machine with `parplan.plan(workload, "profile.json")`. Raises
    `ParplanError` for a path that cannot be written, `RunFailedError` where a worker dies.
    """
    file = path_of("path", path)
    if file.suffix != ".json" or is_folder(file):
        raise ParplanError(f"path: expected a file that ends in .json, got {file}")
    check_place(file)
    number_of("seq_len", seq_len)
    if processes is not None:
        number_of("processes", processes)
    if budget_s is not None:
        value_of(float, budget_s, "budget_s")
    found = find_model(model)
    grid = "quick" if value_of(bool, quick, "quick") else "full"
    from parplan._files import check_writable
    from parplan.backend.calibration.calibrate import calibrate as measure
    from parplan.backend.calibration.calibrate import settings_here
    from parplan.backend.calibration.partial_file import PartialFile
    from parplan.experiments.commands.run.calibrate import BUDGETS_S
    from parplan.hardware.estimates.profile_file import write_profile

    settings, machine = settings_here(found, seq_len, processes, grid)
    check_writable(file.parent)
    limit_s = BUDGETS_S[grid] if budget_s is None else budget_s
    profile = measure(settings, machine, file, budget_s=limit_s)
    write_profile(profile, file)
    PartialFile(file, machine, settings).remove()
    return profile
