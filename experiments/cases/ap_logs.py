"""The published logs of Advanced Parallelization (`experiments/papers/ap_cases.json`)."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from parplan._strict import build, read_json
from parplan.experiments.cases.held_out import PAPERS
from parplan.hardware.machines.presets import cluster_preset
from parplan.hardware.network.cluster import Cluster
from parplan.planners.ap.candidates import ap_candidates
from parplan.planners.ap.log import selected_line
from parplan.planners.ap.possible import software_of
from parplan.planners.costs.cost_cache import SharedCosts
from parplan.planners.costs.plan_costs import by_lists
from parplan.planners.costs.trial import Trial
from parplan.planners.spaces.options import Options
from parplan.sim.models.model import Model, model_preset
from parplan.sim.plan import Plan
from parplan.sim.software.habits import Software
from parplan.sim.workload import Workload, with_software

LOGS = PAPERS / "ap_cases.json"

MODELS = {
    "Llama2 13B": "llama2-13b",
    "Llama3 8B": "llama3-8b",
    "Cerebras-GPT 13B": "cerebras-gpt-13b",
    "Mistral 7B v0.1": "mistral-7b",
    "Baichuan2 13B": "baichuan2-13b",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ApLog:
    """What a published log says."""

    id: str
    model: str
    seq_len: int
    global_batch: int
    num_devices: int
    num_nodes: int
    cluster: str
    rule: str
    """The release whose candidate rule and line format it shows."""
    batch_varied: bool
    num_candidates: int
    num_possible: int
    selected: str
    step_s: float | None
    memory_gib: float | None
    """In use on a device, as read while it trained."""
    fitted: bool
    """Whether the constants of the preset `moai` are fitted to it."""

    @property
    def workload(self) -> Workload:
        """What it trains, with parplan's default software."""
        return Workload(
            model=_model(self.model), seq_len=self.seq_len, global_batch=self.global_batch
        )

    @property
    def machine(self) -> Cluster:
        """What it trains on."""
        return _cluster(self.cluster)

    def candidates(self) -> list[Plan]:
        """AP's candidates."""
        return ap_candidates(self.workload, self.machine, Options(), self.rule, self.batch_varied)

    def is_choice(self, plan: Plan) -> bool:
        """Whether the selected line is that of `plan`: it may be the line of several."""
        return selected_line(plan, self.rule) == self.selected


@cache
def _cluster(name: str) -> Cluster:
    return cluster_preset(name)


def _model(name: str) -> Model:
    if name in MODELS:
        return model_preset(MODELS[name])
    # Qwen1.5 7B has the sizes of Llama-2 7B but for its vocabulary.
    return replace(model_preset("llama2-7b"), name="qwen1.5-7b", vocab_size=151936)


def read_logs(path: Path = LOGS) -> list[ApLog]:
    """All of them; raises `ParplanError` where the file is not as it should be."""
    tables: Any = read_json(path)
    return [build(ApLog, t, f"{path.name}: {t.get('id')}") for t in tables["cases"]]


@dataclass(frozen=True, slots=True, kw_only=True)
class LogVerdicts:
    """What a software stack says of AP's candidates of a log, in their order."""

    log: ApLog
    trials: Sequence[Trial]
    """With the steps of all that fit, and of AP's choice where it does not."""

    @property
    def choice(self) -> Trial:
        """AP's own, of several with its line the fastest."""
        same = [trial for trial in self.trials if self.log.is_choice(trial.plan)]
        return min(same, key=_step_s)

    @property
    def best(self) -> Trial | None:
        """The fastest that fits."""
        return min((trial for trial in self.trials if trial.fits), key=_step_s, default=None)


def _step_s(trial: Trial) -> float:
    return float("inf") if trial.step_s is None else trial.step_s


def verdicts_of(log: ApLog, workload: Workload, *, timed: bool = True) -> LogVerdicts:
    """The verdicts by `workload`, that of the log with some software; `timed`: with steps."""
    costs, plans = SharedCosts(workload, log.machine), log.candidates()
    trials = [costs.judge(plan, Options().memory_ratio) for plan in plans]
    wanted = [i for i, t in enumerate(trials) if timed and (t.fits or log.is_choice(t.plan))]
    for numbers in by_lists(wanted, lambda i: plans[i]):
        found = costs.timed([trials[i] for i in numbers])
        for i, trial in zip(numbers, found, strict=True):
            trials[i] = trial
    return LogVerdicts(log=log, trials=trials)


def on_platform(log: ApLog, software: Software | None = None) -> Workload:
    """What a log trains, as AP's platform trains it; `software`: with these switches instead."""
    workload = with_software(log.workload, software_of(log.rule))
    return workload if software is None else replace(workload, software=software)


@cache
def all_logs() -> tuple[ApLog, ...]:
    """The logs that come with parplan."""
    return tuple(read_logs())
