"""The job of `parplan.backend.execution.execute`, as every one of its processes does it."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist

from parplan._strict import build
from parplan.backend.calibration.layer_times import LayerSetting, measure_layers
from parplan.backend.calibration.machine_costs import measure_machine
from parplan.backend.calibration.this_machine import num_cores
from parplan.backend.execution.hand_written import HandWrittenRun, hand_written
from parplan.backend.execution.interleaved_runs import (
    WATCHED_STEPS,
    InterleavedRun,
    ProxyRun,
    SharedSetup,
    everyone,
    take_turns,
)
from parplan.backend.execution.result import best_by_stages, run_table
from parplan.backend.execution.trial_run import train_alone
from parplan.backend.models.chain import Chain
from parplan.backend.models.gpt import gpt_layers, initialise, language_loss
from parplan.backend.planning.measured_costs import MeasuredCosts
from parplan.backend.planning.search import measurable_plans
from parplan.backend.proxies.memory_predict import predict_peaks
from parplan.backend.proxies.predict import predict_exposed, predict_step
from parplan.backend.proxies.proxy import ProxyModel, proxies_of
from parplan.backend.proxies.proxy_costs import ProxyCosts
from parplan.backend.workers.out_of_memory import noticing
from parplan.backend.workers.processes import is_first, join_processes, num_processes
from parplan.planners.spaces.options import Options
from parplan.sim.plan import Plan
from parplan.sim.workload import Workload

Say = Callable[[str], None]

COMPARED_STEPS = 3
"""Steps whose losses are compared with those of one process."""


def measure(job: dict[str, Any], say: Say) -> dict[str, Any]:
    """Calibrate, predict every executable plan, run the asked ones and the best.

    Returns the result on rank 0, an empty table on other ranks.
    """
    torch.set_num_threads(1)
    torch.backends.cuda.matmul.fp32_precision = "ieee"  # as the workload says, whatever is set
    device = join_processes(job["device"])
    if device.type == "cpu" and num_processes() > num_cores():
        say(
            f"warning: {num_processes()} processes share {num_cores()} cores; they wait for each "
            "other's turns, which is not predicted, and steps may be far from their predictions"
        )
    workload = build(Workload, job["workload"], "job.workload")
    plans = [Plan.from_json(table, "job.plans") for table in job["plans"]]
    work = _Work(workload, job["seed"], device)
    candidates: list[tuple[Plan, float]] = []
    if job["choose"]:
        candidates = _candidates(work, say)
        plans = list(dict.fromkeys([*plans, *_same_on_all(best_by_stages(candidates))]))
    interleaved = _InterleavedRuns(work, plans, job["hand_written"], say)
    interleaved.run(job["warm_up"], job["repeats"], job["budget_s"])
    executed = interleaved.executed()
    if not is_first():
        return {}
    alone = train_alone(work.chain(), work.batch, device, COMPARED_STEPS)
    for table, trial in zip(executed, interleaved.trials, strict=True):
        table["loss_difference"] = _difference(trial.losses, alone)
    return {
        "calibration": interleaved.calibration(),
        "candidates": [[plan.to_json(), step_s] for plan, step_s in candidates],
        "executed": executed,
        "hand_written": interleaved.hand_written_samples,
    }


def _candidates(work: "_Work", say: Say) -> list[tuple[Plan, float]]:
    """The plans that a search would try, with the step that the times of single layers give."""
    workload, chain = work.workload, work.chain()
    plans = measurable_plans(
        num_processes(), workload.model.num_layers, workload.global_batch, Options()
    )
    say(f"calibrating for {len(plans)} candidate plans")
    settings = sorted({LayerSetting(p.batch_per_device, p.recomputation) for p in plans})
    blocks, precision = range(1, 1 + chain.num_blocks), workload.precision
    inputs = chain.layers, language_loss, work.batch, settings, blocks, work.device, precision
    times = measure_layers(*inputs)
    own = max(1, workload.global_batch // num_processes())
    micro_batch = work.batch[0][:own], work.batch[1][:own]
    machine = measure_machine(chain, micro_batch, work.device, precision)
    costs = MeasuredCosts(chain, times, machine)
    return [(plan, costs.simulated_s(plan)) for plan in plans]


class _Work:
    """The training job: the same model, weights and batch in every process and every plan."""

    def __init__(self, workload: Workload, seed: int, device: torch.device) -> None:
        self.workload, self.seed, self.device = workload, seed, device
        generator = torch.Generator().manual_seed(seed)
        shape = (workload.global_batch, workload.seq_len + 1)
        tokens = torch.randint(workload.model.vocab_size, shape, generator=generator)
        self.batch = tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()

    def chain(self) -> Chain:
        """A new copy of the model."""
        layers = gpt_layers(self.workload.model, self.workload.seq_len, self.workload.attention)
        initialise(layers, self.seed)
        return Chain(layers=tuple(layers), num_first=1, num_last=1, loss_fn=language_loss)


class _InterleavedRuns:
    """The plans, and the proxies that predict them."""

    def __init__(self, work: _Work, plans: Sequence[Plan], by_hand: bool, say: Say) -> None:
        self.work, self.say = work, say
        self.num_blocks = work.workload.model.num_layers
        shared = SharedSetup(work.batch, work.device, work.workload.precision)
        self.trials = []
        for place, plan in enumerate(plans):
            with noticing(place):
                self.trials.append(InterleavedRun(work.chain(), plan, shared))
        self.hand_written: list[tuple[int, HandWrittenRun]] = []
        for place, plan in enumerate(plans if by_hand else ()):
            written = hand_written(plan, work.chain(), work.batch, work.device)
            self.hand_written += [(place, written)] if written is not None else []
        # Of each proxy the place of a plan that needs it.
        proxies = {
            proxy: place
            for place, plan in enumerate(plans)
            for family in proxies_of(plan, self.num_blocks).families()
            for proxy in family
        }
        chain, self.proxies = work.chain(), []
        for proxy, place in proxies.items():
            with noticing(place):
                self.proxies.append(ProxyRun(proxy, chain, shared))
        self.warm_up = 0
        self.costs: dict[ProxyModel, ProxyCosts] = {}
        self.hand_written_samples: list[dict[str, Any]] = []

    def run(self, warm_up: int, repeats: int, budget_s: float | None) -> None:
        """Run the given number of rounds, the first ones untimed, or as the budget allows."""
        self.warm_up = warm_up
        rounds = warm_up + repeats
        what = f"{len(self.trials)} plans and {len(self.proxies)} proxy models"
        steps = self._steps()
        tell = functools.partial(self._tell, rounds, what)
        take_turns(steps, rounds, tell, budget_s, self._spoil)

    def _spoil(self) -> None:
        """Leave out the last step of all."""
        for run in (*self.trials, *self.proxies):
            run.spoil()
        for _, written in self.hand_written:
            written.samples.pop()
        self.say("a process was paused for a while: the steps of this round are measured again")

    def _tell(self, rounds: int, what: str, number: int) -> None:
        self.say(f"step {number} of {rounds} of {what}")

    def _steps(self) -> list[Callable[[], None]]:
        """The proxies spread evenly between the plans, each plan's loop by hand beside it."""
        written = dict(self.hand_written)
        places: list[tuple[float, int, Callable[[], None]]] = []
        for place, trial in enumerate(self.trials):
            share = (place + 0.5) / len(self.trials)
            places.append((share, place, _noticed(trial.step, place)))
            if place in written:
                places.append((share, place, written[place].step))
        for place, proxy in enumerate(self.proxies):
            places.append(((place + 0.5) / len(self.proxies), place, proxy.step))
        return [step for *_, step in sorted(places, key=lambda place: place[:2])]

    def executed(self) -> list[dict[str, Any]]:
        """Every plan as predicted and as it ran, as JSON; all processes call this together."""
        self.costs = {run.proxy: run.costs(self.warm_up) for run in self.proxies}
        memory = {run.proxy: run.held() for run in self.proxies}
        for place, written in self.hand_written:
            samples_s = written.seconds(everyone(written.samples))[self.warm_up :]
            found = {"name": written.name, "plan": place, "samples_s": samples_s}
            self.hand_written_samples.append(found)
        tables = []
        for trial in self.trials:
            gathered, peaks = trial.gather(WATCHED_STEPS + self.warm_up), trial.peaks()
            profiled = trial.profile_all()
            if gathered is None:
                continue
            seconds, run = gathered
            predicted = predict_step(trial.plan, self.num_blocks, self.costs)
            tables.append(
                {
                    "plan": trial.plan.to_json(),
                    "predicted": run_table(predicted),
                    "measured": run_table(run),
                    "profiled": run_table(profiled.run),
                    "samples_s": seconds,
                    "predicted_exposed_s": predict_exposed(trial.plan, self.num_blocks, self.costs),
                    "measured_exposed_s": profiled.exposed_s(run),
                    "predicted_bytes": predict_peaks(trial.plan, self.num_blocks, memory),
                    "measured_bytes": peaks,
                }
            )
        return tables

    def calibration(self) -> list[dict[str, Any]]:
        """Measured costs of the proxy models, as JSON."""
        return [
            {
                "plan": proxy.plan.to_json(),
                "blocks_per_stage": proxy.depth,
                **dataclasses.asdict(dataclasses.replace(costs, seconds={}, noise={}, exposed={})),
                "seconds": [[*part, seconds] for part, seconds in costs.seconds.items()],
            }
            for proxy, costs in self.costs.items()
        ]


def _noticed(step: Callable[[], None], place: int) -> Callable[[], None]:
    def run() -> None:
        with noticing(place):
            step()

    return run


def _same_on_all(plans: list[Plan]) -> list[Plan]:
    """The plans of rank 0."""
    if dist.is_initialized():
        dist.broadcast_object_list(plans)
    return plans


def _difference(losses: Sequence[float], alone: Sequence[float]) -> float:
    """The largest relative difference over the compared steps."""
    pairs = zip(losses, alone, strict=False)
    return max(abs(ours - theirs) / abs(theirs) for ours, theirs in pairs)
