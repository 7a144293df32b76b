"""Finding the plan of a training script: from what is measured now, or from a machine's profile."""

import logging
from collections.abc import Callable
from pathlib import Path

import torch

from parplan._files import remove_file, write_whole
from parplan.backend.calibration.layer_times import LayerSetting, measure_layers
from parplan.backend.calibration.machine_costs import measure_machine
from parplan.backend.executable import executable_only
from parplan.backend.models.chain import Chain
from parplan.backend.models.gpt import Embedding
from parplan.backend.planning.measured_costs import MeasuredCosts
from parplan.backend.planning.search import Choice, Prediction, measurable_plans, search
from parplan.backend.script.why_not_in_script import why_not_in_script
from parplan.backend.workers.processes import agree, num_processes
from parplan.errors import ParplanError
from parplan.hardware.estimates.profile_file import read_profile
from parplan.hardware.machines.from_profile import cluster_of_profile
from parplan.planners.ap import log
from parplan.planners.costs.cost_cache import SharedCosts
from parplan.planners.spaces.make import full_candidates
from parplan.planners.spaces.options import Options
from parplan.sim.models.hf_config import model_from_table
from parplan.sim.models.model import Model
from parplan.sim.plan import Plan
from parplan.sim.software.framework import NO_OVERHEAD
from parplan.sim.workload import Workload

Batch = tuple[torch.Tensor, torch.Tensor]

LOG = logging.getLogger("parplan")


def find_plan(
    chain: Chain,
    batch: Batch,
    options: Options,
    profile: Path | None,
    device: torch.device,
    *,
    planned_now: bool,
) -> tuple[Plan, Prediction | None]:
    """The plan with the shortest predicted step, the same on all processes.

    On the first one also what is predicted of it. Without a profile the chain's layers, messages,
    reductions and the optimizer are measured now. planned_now: whether plans that replace
    parameters are possible. Raises `ParplanError` when nothing fits, or the profile is of another
    machine.
    """
    if profile is None:
        return _agreed(_measured(chain, batch, options, device, planned_now=planned_now))
    return _agreed(lambda: _from_profile(chain, batch, options, profile, planned_now=planned_now))


def _agreed(choose: Callable[[], Choice]) -> tuple[Plan, Prediction | None]:
    """Choose on the first process."""
    found: list[Choice] = []

    def plan() -> Plan:
        found.append(choose())
        return found[0].plan

    agreed = agree(plan)
    return agreed, found[0].prediction if found else None


def _measured(
    chain: Chain, batch: Batch, options: Options, device: torch.device, *, planned_now: bool
) -> Callable[[], Choice]:
    """Measure on all processes; how to choose then."""
    inputs, targets = batch
    precision = "bf16" if options.mixed_precision else "fp32"
    plans = measurable_plans(num_processes(), chain.num_blocks, len(inputs), options)
    reasons = [why_not_in_script(plan, chain, planned_now=planned_now) for plan in plans]
    if all(reasons):
        asked = "distribute_parameter: " if options.distribute_parameter is True else ""
        raise ParplanError(f"{asked}{reasons[0]}")
    plans = [plan for plan, reason in zip(plans, reasons, strict=True) if not reason]
    settings = sorted({LayerSetting(p.batch_per_device, p.recomputation) for p in plans})
    blocks = range(chain.num_first, chain.num_first + chain.num_blocks)
    times = measure_layers(chain.layers, chain.loss_fn, batch, settings, blocks, device, precision)
    own = max(1, len(inputs) // num_processes())
    machine = measure_machine(chain, (inputs[:own], targets[:own]), device, precision)
    return lambda: search(MeasuredCosts(chain, times, machine), plans, options)


def _from_profile(
    chain: Chain, batch: Batch, options: Options, path: Path, *, planned_now: bool
) -> Choice:
    """Search all plans that this script can be trained by, by the simulator's cost model."""
    cluster = cluster_of_profile(read_profile(path), str(path))
    if cluster.num_accelerators != num_processes():
        raise ParplanError(
            f"{path}: measured with {cluster.num_accelerators} processes, but {num_processes()} "
            f"run; parplan calibrate --processes {num_processes()}"
        )
    workload = Workload(
        model=described(chain, str(path)),
        seq_len=batch[0].shape[1],
        global_batch=len(batch[0]),
        precision="bf16" if options.mixed_precision else "fp32",
        framework=NO_OVERHEAD,
    )
    why_not = executable_only(workload, num_processes())
    candidates = [
        plan
        for plan in full_candidates(workload, cluster, options)
        if not why_not(plan) and not why_not_in_script(plan, chain, planned_now=planned_now)
    ]
    if not candidates:
        raise ParplanError(
            f"no plan for a global batch of {len(batch[0])} on {num_processes()} processes can "
            "be executed in this script"
        )
    return search(SharedCosts(workload, cluster), candidates, options)


def described(chain: Chain, where: str) -> Model:
    """The architecture of a chain, for the simulator.

    Raises `ParplanError` for layers that are neither parplan's own nor Hugging Face's.
    """
    first = chain.layers[0]
    if isinstance(first, Embedding):
        return first.description
    config = getattr(chain.loss_fn, "config", None)
    if config is None:
        raise ParplanError(
            f"{where}: a profile plans for parplan's own layers and Hugging Face models; leave "
            f"profile out, and the layers (first {type(first).__name__}) are measured"
        )
    return model_from_table(config.to_dict(), config.model_type, "model.config")


def forget_choice(folder: Path) -> None:
    """Remove the dump of an earlier search, so that one that fails leaves none."""
    remove_file(folder / log.DUMP_NAME)


def announce(plan: Plan, folder: Path) -> None:
    """AP's last lines, and its dump file where the script was started."""
    line = log.selected_line(plan)
    write_whole(folder / log.DUMP_NAME, f"{line}\n".encode())
    for text in (log.SELECTED, line, "train: true"):
        LOG.info(text)
