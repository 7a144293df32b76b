"""The job of `parplan.backend.execute`, as every one of its processes does it."""

import dataclasses
import gc
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist

from parplan.backend.chain import Chain
from parplan.backend.choose import MachineCosts, compile_measured, executable_plans
from parplan.backend.executable import why_not_predictable
from parplan.backend.execute import run_table
from parplan.backend.gpt import gpt_layers, initialise, language_loss
from parplan.backend.layer_times import LayerTimes, Setting, measure_layers
from parplan.backend.machine import measure_machine
from parplan.backend.processes import is_first, join_processes, num_processes
from parplan.backend.trial_run import TrialRun, train_alone
from parplan.hardware.strict import build
from parplan.planners.options import Options
from parplan.sim.engine import simulate
from parplan.sim.plan import Plan
from parplan.sim.run import Run
from parplan.sim.workload import Workload

Times = dict[Setting, tuple[LayerTimes, ...]]
Say = Callable[[str], None]

COMPARED_STEPS = 3
"""Steps whose losses are compared with those of one process."""


def measure(job: dict[str, Any], say: Say) -> dict[str, Any]:
    """Calibrate, predict every executable plan, run the asked ones and the best; on rank 0 the
    result, elsewhere an empty table."""
    torch.set_num_threads(1)
    device = join_processes()
    workload = build(Workload, job["workload"], "job.workload")
    asked = [Plan.from_json(table, "job.plans") for table in job["plans"]]
    work = _Work(workload, job["seed"], device)
    candidates = executable_plans(
        num_processes(), workload.model.num_layers, workload.global_batch, Options()
    )
    say(f"calibrating for {len(candidates)} candidate plans")
    calibrate = _Calibration(work, [*candidates, *asked])
    calibrate.round()
    predictions = {plan: calibrate.predict(plan) for plan in candidates}
    choice = _same_on_all(min(candidates, key=lambda plan: predictions[plan].step_s))
    plans = list(dict.fromkeys([*asked, choice]))
    trials = _train(work, plans, job["warm_up"] + job["repeats"], say)
    calibrate.round()
    found = [trial.gather(job["warm_up"]) for trial in trials]
    if not is_first():
        return {}
    alone = train_alone(work.chain(), work.batch, device, COMPARED_STEPS)
    executed = []
    for trial, samples in zip(trials, found, strict=True):
        assert samples is not None
        seconds, run = samples
        executed.append(
            {
                "plan": trial.plan.to_json(),
                "predicted": _prediction(calibrate, trial.plan),
                "measured": run_table(run),
                "samples_s": seconds,
                "loss_difference": _difference(trial.losses, alone),
            }
        )
    return {
        "calibration": calibrate.table(),
        "candidates": [[p.to_json(), calibrate.predict(p).step_s] for p in candidates],
        "executed": executed,
    }


class _Work:
    """What is trained: the same model, weights and batch in every process and every plan."""

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


class _Calibration:
    """Costs measured in rounds; the medians of the rounds predict."""

    def __init__(self, work: _Work, plans: Sequence[Plan]) -> None:
        self.work, self.chain = work, work.chain()
        measured = [plan for plan in plans if not why_not_predictable(plan)]
        self.settings = sorted({Setting(p.batch_per_device, p.recomputation) for p in measured})
        self.rounds: list[tuple[Times, MachineCosts]] = []

    def round(self) -> None:
        """Measure everything once more, on all processes together."""
        blocks = range(1, 1 + self.chain.num_blocks)
        layers, precision = self.chain.layers, self.work.workload.precision
        device, batch = self.work.device, self.work.batch
        times = measure_layers(
            layers, language_loss, batch, self.settings, blocks, device, precision
        )
        own = max(1, self.work.workload.global_batch // num_processes())
        micro_batch = batch[0][:own], batch[1][:own]
        machine = measure_machine(self.chain, micro_batch, device, precision)
        self.rounds.append((times, machine))

    def predict(self, plan: Plan) -> Run:
        """The plan simulated with the mean costs of the rounds so far."""
        times = {
            setting: tuple(_mean(LayerTimes, layers) for layers in zip(*of_rounds, strict=True))
            for setting in self.settings
            for of_rounds in [[times[setting] for times, _ in self.rounds]]
        }
        machine = _mean(MachineCosts, [machine for _, machine in self.rounds])
        schedule, costs, _ = compile_measured(plan, self.chain, times, machine, Options())
        return simulate(schedule, costs)

    def table(self) -> dict[str, Any]:
        """What was measured, as JSON."""
        return {
            "rounds": [
                {
                    "machine": dataclasses.asdict(machine),
                    "layers": [
                        {**setting._asdict(), "layers": [dataclasses.asdict(t) for t in layers]}
                        for setting, layers in times.items()
                    ],
                }
                for times, machine in self.rounds
            ]
        }


def _prediction(calibrate: _Calibration, plan: Plan) -> dict[str, Any] | None:
    """The predicted run as JSON, if the measured costs are those of the plan."""
    return None if why_not_predictable(plan) else run_table(calibrate.predict(plan))


def _mean(cls: Any, values: Sequence[Any]) -> Any:
    """The field-wise mean of dataclasses of numbers."""
    fields = dataclasses.fields(cls)
    return cls(**{f.name: sum(getattr(v, f.name) for v in values) / len(values) for f in fields})


def _train(work: _Work, plans: Sequence[Plan], steps: int, say: Say) -> list[TrialRun]:
    """Train every plan for `steps` steps, taking turns."""
    precision = work.workload.precision
    trials = [TrialRun(work.chain(), plan, work.batch, work.device, precision) for plan in plans]
    gc.collect()
    gc.disable()
    try:
        for step in range(steps):
            for trial in trials:
                trial.step()
            say(f"step {step + 1} of {steps} of {len(plans)} plans")
    finally:
        gc.enable()
    return trials


def _same_on_all(plan: Plan) -> Plan:
    """The plan of rank 0."""
    plans = [plan]
    if dist.is_initialized():
        dist.broadcast_object_list(plans)
    return plans[0]


def _difference(losses: Sequence[float], alone: Sequence[float]) -> float:
    """The largest relative difference over the compared steps."""
    pairs = zip(losses, alone, strict=False)
    return max(abs(ours - theirs) / abs(theirs) for ours, theirs in pairs)
