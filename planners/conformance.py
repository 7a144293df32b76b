"""Conformance checks for planners.

```python
import pytest
from parplan.planners.conformance import CHECKS

@pytest.mark.parametrize("check", CHECKS)
def test_my_planner(check):
    check("my_package.my_module:my_planner")
```

A check takes the name of a planner (or `module:function`), and raises `AssertionError` with what
went wrong.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from itertools import pairwise
from random import Random

from parplan.hardware.machines.presets import cluster_preset
from parplan.planners.costs.trial import judge
from parplan.planners.search.evaluator import Budget, Evaluator
from parplan.planners.search.run import SearchReport, find_planner, run_planner
from parplan.planners.spaces.constraints import Constraints, Range
from parplan.planners.spaces.make import make_space
from parplan.planners.spaces.space import Space
from parplan.sim.models.model import model_preset
from parplan.sim.plan import Plan
from parplan.sim.prediction.predict import compile_plan, predict
from parplan.sim.software.framework import NO_OVERHEAD
from parplan.sim.workload import Workload

EVALUATIONS = 60
SEEDS = {0: "1", 1: "12345"}
"""Each with the hash seed of another process."""


def example_space() -> Space:
    """A small space, of whose plans about half fit in memory."""
    workload = Workload(
        model=model_preset("llama3-8b"), seq_len=2048, global_batch=16, framework=NO_OVERHEAD
    )
    constraints = Constraints(
        num_stages=Range(max=4),
        virtual_stages=(1, 2),
        zero_stage=(0, 1, 3),
        schedule=("gpipe", "1f1b", "interleaved-1f1b", "zb-h1"),
    )
    return make_space(workload, cluster_preset("8xa100-40gb"), constraints)


def check_it_is_repeatable(planner: str) -> None:
    """The same seed gives the same asks, also in another process with another hash seed."""
    for seed, hash_seed in SEEDS.items():
        here = _asked(_report(planner, seed))
        assert here, f"{planner}: seed {seed} asked about no plan"
        assert here == _asked(_report(planner, seed)), (
            f"{planner}: seed {seed} differs when repeated"
        )
        there = _asked_remotely(planner, seed, hash_seed)
        assert there == here, f"{planner}: seed {seed} differs in another process"


def check_it_uses_no_chance_of_its_own(planner: str) -> None:
    """Check that random numbers drawn elsewhere neither change nor are changed by the planner."""
    import random

    first = _asked(_report(planner, 0))
    random.seed(4)
    state = random.getstate()
    second = _asked(_report(planner, 0))
    assert random.getstate() == state, f"{planner}: draws from the generator of the process"
    assert first == second, f"{planner}: depends on the generator of the process"


def check_it_keeps_the_budget(planner: str) -> None:
    """Check that the planner keeps any budget, and finds no worse plan with a larger one."""
    found = []
    for evaluations in (1, 7, EVALUATIONS):
        report = _report(planner, 0, evaluations)
        assert 0 < report.num_asked <= evaluations, f"{planner}: asked {report.num_asked} times"
        assert report.stopped in ("budget used up", "finished"), f"{planner}: {report.stopped}"
        found.append(report)
    for less, more in pairwise(found):
        # A schedule that depends on the budget (as cooling does) may take another way.
        assert more.num_asked >= less.num_asked, f"{planner}: asks less of a larger budget"


def check_it_stops_at_once(planner: str) -> None:
    """Check that the planner stops when the budget ends: no further requests, no own answer."""
    counted = _Counting(find_planner(planner))
    report = run_planner(counted, example_space(), budget=Budget(evaluations=EVALUATIONS))
    assert report.stopped in ("budget used up", "finished"), f"{planner}: {report.stopped}"
    assert counted.left_by <= 1, f"{planner}: asked {counted.left_by} times after the budget ended"


def check_its_answer_is_feasible(planner: str) -> None:
    """Check that requests belong to the space, and that the answer fits in memory."""
    space = example_space()
    report = _report(planner, 0)
    outside = [trial.plan for trial in report.trials if trial.plan not in space]
    assert not outside, f"{planner}: asked about plans from elsewhere, such as {outside[0]}"
    best = report.best
    assert best is not None, f"{planner}: found nothing that fits in {EVALUATIONS} evaluations"
    again = judge(space.workload, space.cluster, space.constraints.memory_ratio, best.plan)
    assert again.fits, f"{planner}: its answer does not fit: {again.reason}"


def check_it_does_not_cheat(planner: str) -> None:
    """The record is true: as many asks as were made, each with the time that the simulator says."""
    space = example_space()
    counted = _Counting(find_planner(planner))
    report = run_planner(counted, space, budget=Budget(evaluations=EVALUATIONS))
    assert report.num_asked <= EVALUATIONS, f"{planner}: {report.num_asked} asks are on record"
    assert {trial.plan for trial in report.trials} <= counted.asked, (
        f"{planner}: the record has plans that it did not ask about"
    )
    for trial in report.trials:
        compiled = compile_plan(space.workload, space.cluster, trial.plan)
        if trial.fits:
            step_s = predict(compiled).step_s
            assert trial.step_s == step_s, f"{planner}: {trial.plan} takes {step_s} s"
    times = [trial.step_s for trial in report.trials if trial.step_s is not None]
    assert report.best is None or report.best.step_s == min(times)


def check_it_searches(planner: str) -> None:
    """Check that the planner tries several plans, or has proven that more are of no use."""
    report = _report(planner, 0)
    several = len(report.trials) > 1 or report.proven
    assert several, f"{planner}: tried {len(report.trials)} of {report.space_size} plans"


CHECKS: tuple[Callable[[str], None], ...] = (
    check_it_is_repeatable,
    check_it_uses_no_chance_of_its_own,
    check_it_keeps_the_budget,
    check_it_stops_at_once,
    check_its_answer_is_feasible,
    check_it_does_not_cheat,
    check_it_searches,
)
"""All of them."""


class _Counting:
    """A planner whose asks are counted beside the evaluator's own count."""

    def __init__(self, planner: Callable[..., None]) -> None:
        self.planner = planner
        self.asked: set[Plan] = set()
        self.left_by = 0

    def __call__(self, space: Space, evaluate: Evaluator, rng: Random) -> None:
        own = evaluate.many

        def many(plans: Sequence[Plan]) -> object:
            plans = list(plans)
            self.left_by += evaluate.evaluations_left == 0
            self.asked.update(plans)
            return own(plans)

        evaluate.many = many  # type: ignore[method-assign, assignment]
        try:
            self.planner(space, evaluate, rng)
        finally:
            del evaluate.many


def _report(planner: str, seed: int, evaluations: int = EVALUATIONS) -> SearchReport:
    report = run_planner(
        planner, example_space(), budget=Budget(evaluations=evaluations), seed=seed
    )
    assert not report.failed, f"{planner}: {report.stopped}"
    return report


def _asked(report: SearchReport) -> list[list[object]]:
    """Rows of a report: the number of requests, then the trials in the order of the requests."""
    rows: list[list[object]] = [[report.num_asked, report.stopped]]
    rows += [[str(trial.plan), trial.reason, trial.step_s] for trial in report.trials]
    return rows


def _asked_remotely(planner: str, seed: int, hash_seed: str) -> list[list[object]]:
    done = subprocess.run(
        [sys.executable, "-m", "parplan.planners.conformance", planner, str(seed)],
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{planner}: fails in another process: {done.stderr}"
    asked: list[list[object]] = json.loads(done.stdout)
    return asked


def _main(planner: str, seed: str) -> None:
    json.dump(_asked(_report(planner, int(seed))), sys.stdout)


if __name__ == "__main__":
    _main(*sys.argv[1:])
