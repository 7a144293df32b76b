"""Fitting the constants of `moai`, the stack that Advanced Parallelization belongs to.

Memory first: where the counts of possible candidates put the limit among their needs, that AP's
choice fits, and the memory that was read. Then time: published steps, and that no candidate that
fits is faster than AP's choice.
"""

import dataclasses
import json
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from scipy.optimize import minimize

from parplan.errors import ParplanError
from parplan.experiments.cases.ap_logs import ApLog, LogVerdicts, on_platform, verdicts_of
from parplan.planners.ap.possible import counted_as, num_counted, software_of
from parplan.planners.spaces.options import Options
from parplan.sim.plan import Plan
from parplan.sim.software.habits import Software
from parplan.sim.software.presets import preset

MEMORY = {"kept_activations": 2.43, "selective_keeps": 0.2}
TIME = {
    "product_share": 0.31,
    "half_rate_tokens": 110.0,
    "selective_repeats": 0.03,
    "message_s": 0.035,
    "exchange_bytes_per_s": 27e9,
}
"""The constants and where the search for them starts."""

MARGIN = 0.02
"""How far from the limit, relatively, what does (not) fit should be."""
MISCOUNTED = 0.03
"""What a candidate too many or too few costs, beside the distance from the limit."""
READING = 0.1
"""Weight of a reading of memory: it is of another moment than the verdict, and of one device."""
UNCHOSEN = 0.3
"""Weight of what AP did not choose, as must not have fitted."""
STEP = 0.3
"""Weight of a step's error, beside by how much AP's choice is slower than another plan."""
SLOWER = 0.02
"""What a choice costs that is slower by more than a per cent."""
MOST = 0.5
"""No log costs more: some contradict each other."""

ABOUT = "the stack of Moreh's MoAI Platform, as the logs of Advanced Parallelization show it"

HEAD = """
# The stack that Advanced Parallelization belongs to, read by parplan.sim.software.presets. It is
# fitted to logs of one platform and stands for no other; written by `parplan validate --fit-ap`.
"""

ASSUMED = "found in the published logs: counts of possible candidates, choices and steps"
EARLIER = "found in the published logs: of what is recomputed whole, a block at a time is there"
FIXED: dict[str, tuple[bool | str | float, str]] = {
    "framework": ("none", "what it costs beside kernels is in product_share and message_s"),
    "pipelines_reduce_once": (True, "assumed: gradients are added up over the micro-batches"),
    "recomputes_stages": (True, f"{ASSUMED}; without a pipeline it needs as much as none"),
    "loss_in_place": (True, f"{ASSUMED}: 4 bytes a logit"),
    "whole_gradients": (0.5, f"{ASSUMED}: about a byte a parameter"),
    "exposed_exchanges": (True, f"{ASSUMED}: it never chooses what hides exchanges"),
}

Report = Callable[[str], None]


def fit_platform(
    logs: Sequence[ApLog], report: Report = lambda line: None, rounds: tuple[int, int] = (12, 30)
) -> dict[str, float]:
    """The constants that explain `logs` best.

    `rounds`: evaluations for memory and for time. Raises `ParplanError` for a log that is held out.
    """
    if held_out := [log.id for log in logs if not log.fitted]:
        raise ParplanError(f"fit: {', '.join(held_out)}: held out, not to be fitted to")
    memory = _search(MEMORY, {}, lambda x: _total(logs, x, memory_cost, timed=False), rounds[0])
    report(f"memory: {_said(memory)}")
    time = _search(TIME, memory, lambda x: _total(logs, x, time_cost, timed=True), rounds[1])
    report(f"time: {_said(time)}")
    return memory | time


def _search(
    start: dict[str, float],
    fixed: dict[str, float],
    cost: Callable[[dict[str, float]], float],
    rounds: int,
) -> dict[str, float]:
    scale = np.array(list(start.values()))

    def of(x: np.ndarray) -> dict[str, float]:
        # Rounded, so that what is written is what was judged.
        return {n: float(f"{abs(v):.4g}") for n, v in zip(start, x * scale, strict=True)}

    corners = np.vstack([np.ones(len(scale)), np.ones(len(scale)) + 0.15 * np.eye(len(scale))])

    def judged(x: np.ndarray) -> float:
        return cost(fixed | of(x))

    options: Any = {"maxfev": rounds, "initial_simplex": corners}
    found = minimize(judged, corners[0], method="Nelder-Mead", options=options)
    return of(found.x)


def _said(constants: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:g}" for name, value in constants.items())


def _total(
    logs: Sequence[ApLog],
    constants: dict[str, float],
    cost: Callable[[LogVerdicts], float],
    *,
    timed: bool,
) -> float:
    return sum(
        min(MOST, cost(verdicts_of(log, on_platform(log, _with(log, constants)), timed=timed)))
        for log in logs
    )


def _with(log: ApLog, constants: dict[str, Any]) -> Software:
    """The switches of the platform at the release of a log, with these constants."""
    return dataclasses.replace(preset(software_of(log.rule)).software, **constants)


def memory_cost(verdicts: LogVerdicts) -> float:
    """How badly memory agrees with a log."""
    log, trials = verdicts.log, verdicts.trials
    limit = Options().memory_ratio * log.machine.accelerator.memory_bytes
    needs = {trial.plan: math.log(max(trial.memory_bytes) / limit) for trial in trials}
    counted = _counted(log, needs)
    choice = min((plan for plan in needs if log.is_choice(plan)), key=needs.__getitem__)
    fit = [*counted[: log.num_possible], needs[choice]]
    cost = max(0.0, max(fit) + MARGIN) + max(0.0, needs[choice] + MARGIN)
    cost += max(0.0, MARGIN - min(counted[log.num_possible :], default=math.inf))
    plain = dataclasses.replace(choice, recomputation="none")
    if choice.recomputation == "selective" and plain in needs:
        # The same layout is faster without, and would be chosen if it fitted.
        cost += UNCHOSEN * max(0.0, MARGIN - needs[plain])
    cost += MISCOUNTED * min(3, abs(num_counted(trials, log.rule) - log.num_possible))
    if log.memory_gib is not None:
        cost += READING * abs(needs[choice] - math.log(log.memory_gib * 2**30 / limit))
    return cost


def _counted(log: ApLog, needs: dict[Plan, float]) -> list[float]:
    """The needs of what a release counts, the least first."""
    least: dict[object, float] = {}
    for plan, need in needs.items():
        key = counted_as(plan, log.rule)
        least[key] = min(need, least.get(key, math.inf))
    return sorted(least.values())


def time_cost(verdicts: LogVerdicts) -> float:
    """How badly steps agree with a log."""
    choice, best = verdicts.choice.step_s, verdicts.best
    assert choice is not None
    cost = 0.0
    if best is not None and best.step_s is not None and choice > best.step_s:
        cost += math.log(choice / best.step_s) + SLOWER * (choice > 1.01 * best.step_s)
    if verdicts.log.step_s is not None:
        cost += STEP * abs(math.log(choice / verdicts.log.step_s))
    return cost


def platform_toml(constants: dict[str, float], logs: Sequence[ApLog]) -> str:
    """The text of `sim/software/moai.toml`."""
    fitted = f"fitted to {len(logs)} published logs (`parplan validate --fit-ap`)"
    lines = [HEAD.rstrip(), "", "[moai]", f'about = "{ABOUT}, releases from 24.5 on"']
    lines += [_line(name, value, source) for name, (value, source) in FIXED.items()]
    lines += [_line(name, value, fitted) for name, value in constants.items()]
    lines += ["", '["moai-24.3"]', f'about = "{ABOUT}, releases up to 24.3"', 'like = "moai"']
    lines += [_line("recomputes_stages", False, EARLIER)]
    return "\n".join(lines) + "\n"


def _line(name: str, value: bool | str | float, source: str) -> str:
    text = str(value).lower() if isinstance(value, bool) else json.dumps(value)
    return f'{name} = {{ value = {text}, source = "{source}" }}'
