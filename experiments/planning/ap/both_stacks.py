"""AP's candidates by two software stacks: that of AP's platform, and parplan's default one.

On a flavor of AP's platform the candidates are judged, and the choice is made, by the preset of
that platform. What parplan's default stack says is told beside it.
"""

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from parplan.hardware.network.cluster import Cluster
from parplan.planners.ap.possible import is_flavor, num_counted, software_of
from parplan.planners.costs.goal import STEP_TIME
from parplan.planners.costs.trial import Trial
from parplan.planners.explain.why import plan_label
from parplan.planners.search.exhaustive import exhaustive
from parplan.sim.software.framework import ON_PRESETS, default_framework, expected_framework
from parplan.sim.software.presets import default_fields
from parplan.sim.workload import Workload, with_software

TIE = 0.01
"""Plans whose steps differ by no more are a tie: the fit to the logs tells them apart no better."""


def platform_workload(
    args: argparse.Namespace, workload: Workload, cluster: Cluster
) -> Workload | None:
    """`workload` as AP's platform trains it; None where that does not apply.

    It applies where AP's candidates are searched on one of its flavors and no other software is
    asked for.
    """
    asked_for_other = (
        args.software is not None
        or workload.software != default_fields()["software"]
        or workload.framework not in (default_framework(), expected_framework(ON_PRESETS))
    )
    if args.space != "ap" or args.planner is not None or not is_flavor(cluster) or asked_for_other:
        return None
    return with_software(workload, software_of(args.ap_version))


@dataclass(frozen=True, slots=True, kw_only=True)
class BothStacks:
    """The verdicts on the same candidates, in the same order."""

    version: str
    """Of AP."""
    platform: Sequence[Trial]
    default: Sequence[Trial]

    @property
    def num_possible(self) -> int:
        """What AP would say."""
        return num_counted(self.platform, self.version)

    def columns(self, number: int) -> dict[str, str]:
        """What `trials.csv` has of the default stack for one candidate, from 0 on."""
        trial = self.default[number]
        return {
            "default_stack_verdict": "fits" if trial.fits else "does not fit",
            "default_stack_memory_bytes": " ".join(f"{b:.0f}" for b in trial.memory_bytes),
            "default_stack_step_s": "" if trial.step_s is None else repr(trial.step_s),
        }

    def lines(self) -> Iterator[str]:
        """For people: the choices of both, ties, and what the default says of AP's choice."""
        theirs, ours = _best(self.platform), _best(self.default)
        yield (
            f"by AP's stack ({software_of(self.version)}, after published logs): "
            f"{self.num_possible} of {len(self.platform)} possible; {_choice(theirs)}"
            f"{_ties(self.platform, theirs)}"
        )
        fitting = sum(trial.fits for trial in self.default)
        line = (
            f"by parplan's default stack: {fitting} of {len(self.default)} possible; "
            f"{_choice(ours)}{_ties(self.default, ours)}"
        )
        if theirs is not None and ours is not None and theirs.plan != ours.plan:
            same = next(trial for trial in self.default if trial.plan == theirs.plan)
            line += f"; AP's choice there: {_step(same, ours)}"
        yield line


def compared(
    version: str,
    workload: Workload,
    cluster: Cluster,
    trials: Sequence[Trial],
    memory_ratio: float,
) -> BothStacks:
    """The verdicts of the default stack beside `trials`, those of AP's; `workload`: by default."""
    report = exhaustive(
        workload, cluster, [t.plan for t in trials], memory_ratio=memory_ratio
    ).whole()
    return BothStacks(version=version, platform=trials, default=report.trials)


def _best(trials: Sequence[Trial]) -> Trial | None:
    return STEP_TIME.best(trials)


def _choice(best: Trial | None) -> str:
    return "no choice" if best is None else f"{plan_label(best.plan)}, {best.step_s:.2f} s"


def _ties(trials: Sequence[Trial], best: Trial | None) -> str:
    """How many others are a tie with the choice."""
    count = 0 if best is None else len(ties(trials, best)) - 1
    return f" (a tie with {count} more within {TIE:.0%})" if count else ""


def ties(trials: Sequence[Trial], best: Trial) -> list[Trial]:
    """The candidates that are no slower than `best` by more than `TIE`, itself among them."""
    assert best.step_s is not None
    limit_s = (1 + TIE) * best.step_s
    return [trial for trial in trials if trial.step_s is not None and trial.step_s <= limit_s]


def _step(trial: Trial, best: Trial) -> str:
    if trial.step_s is None or best.step_s is None:
        return "does not fit"
    slower = trial.step_s / best.step_s - 1
    return f"{trial.step_s:.2f} s, " + ("a tie" if slower <= TIE else f"{slower:.0%} slower")
