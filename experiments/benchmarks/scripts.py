"""`parplan benchmark --scripts`: the one line in training scripts as users write them.

Every script runs as the line plans it, by each of a few other plans, and with
DistributedDataParallel by hand, in turns, each time in new processes. The regret is how much longer
the step of the line's plan is than that of the fastest; the least of the rounds counts of each.
"""

import csv
import json
import statistics
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from parplan.backend.workers import train as trainer
from parplan.experiments.accuracy.comparison_tables import short_name
from parplan.sim.plan import Plan

KINDS = (
    *("language", "deep", "wide", "vocabulary", "list of blocks", "vision", "perceptron"),
    "convolutions",
)
"""Those of `parplan.backend.examples.user_script`, which imports torch."""

PROCESSES, ROWS = 2, 16
ROUNDS = 2

SCRIPT = Path(trainer.__file__).parents[1] / "examples" / "user_script.py"

Say = Callable[[str], None]


def _pipeline(schedule: str, micro_batches: int) -> Plan:
    return Plan(
        num_stages=2,
        schedule=schedule,
        num_micro_batches=micro_batches,
        batch_per_device=ROWS // micro_batches,
    )


ALTERNATIVES = (
    Plan(data_parallel=2, batch_per_device=ROWS // 2),
    *(_pipeline("gpipe", count) for count in (2, 4)),
    *(_pipeline("1f1b", count) for count in (4, 8)),
)


@dataclass
class MeasuredScript:
    """The steps of one script by every plan."""

    name: str
    pick: Plan
    predicted_s: float
    steps_s: dict[Plan, list[float]] = field(default_factory=dict)
    by_hand_s: list[float] = field(default_factory=list)

    @property
    def best_s(self) -> float:
        """The step of the fastest plan that ran."""
        return min(min(steps) for steps in self.steps_s.values())

    @property
    def regret(self) -> float:
        """How much longer the line's plan takes than the fastest."""
        return min(self.steps_s[self.pick]) / self.best_s - 1

    @property
    def noise(self) -> float:
        """Half the range of the rounds, of the plan where it is widest."""
        ranges = [(max(s) - min(s)) / min(s) / 2 for s in self.steps_s.values() if len(s) > 1]
        return max(ranges, default=0.0)

    @property
    def overhead(self) -> float:
        """Of data parallelism by the line over that by hand."""
        return min(self.steps_s[ALTERNATIVES[0]]) / min(self.by_hand_s) - 1


def measure(kinds: Sequence[str], rounds: int, say: Say) -> Iterator[MeasuredScript]:
    """Every script by every plan, in turns."""
    for kind in kinds:
        say(f"{kind}: the plan of the line")
        with tempfile.TemporaryDirectory(prefix="parplan-") as folder:
            row = _run(kind, "", Path(folder))
            pick = Plan.from_json(json.loads((Path(folder) / "plan.json").read_text()), "plan")
        found = MeasuredScript(kind, pick, float(row["predicted_s"] or "nan"))
        plans = list(dict.fromkeys([pick, *ALTERNATIVES]))
        for number in range(rounds):
            for plan in plans:
                say(f"{kind}: round {number + 1} of {rounds}")
                with tempfile.TemporaryDirectory(prefix="parplan-") as folder:
                    row = _run(kind, json.dumps(plan.to_json()), Path(folder))
                found.steps_s.setdefault(plan, []).append(float(row["measured_s"]))
            found.by_hand_s.append(_by_hand(kind))
        yield found


def _run(kind: str, plan: str, folder: Path) -> dict[str, str]:
    trainer.train(SCRIPT, [kind, plan], PROCESSES, report=str(folder), write=lambda text: None)
    with (folder / "executed.csv").open(newline="") as file:
        return next(csv.DictReader(file))


def _by_hand(kind: str) -> float:
    with tempfile.TemporaryDirectory(prefix="parplan-") as folder:
        path = Path(folder) / "step_s"
        trainer.train(SCRIPT, [kind, "", str(path)], PROCESSES, write=lambda text: None)
        return float(path.read_text())


def line(script: MeasuredScript) -> str:
    """One script."""
    picked_s = min(script.steps_s[script.pick])
    return (
        f"{script.name:15} {short_name(script.pick):14} {picked_s:.4f} s, predicted "
        f"{script.predicted_s:.4f} s; regret {script.regret:5.1%}; over DistributedDataParallel "
        f"by hand {script.overhead:+6.1%}; noise {script.noise:5.1%}"
    )


def summary(scripts: Sequence[MeasuredScript]) -> str:
    """All of them."""
    regrets = [script.regret for script in scripts]
    return (
        f"{len(scripts)} scripts: regret {statistics.mean(regrets):.1%} (mean), "
        f"{max(regrets):.1%} (worst); data parallelism over that by hand "
        f"{statistics.median(script.overhead for script in scripts):+.1%} (median); noise "
        f"{statistics.mean(script.noise for script in scripts):.1%}"
    )
