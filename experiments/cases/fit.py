"""Fitting the constants of frameworks to published runs whose use for that is allowed."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from parplan.errors import ParplanError
from parplan.experiments.cases.held_out import refuse_held_out
from parplan.experiments.cases.read import Case
from parplan.experiments.cases.request import CaseRequest, request_of
from parplan.hardware.machines.cached_cluster import with_kernel_cache
from parplan.sim.prediction.predict import compile_plan, predict
from parplan.sim.software.framework import Framework

SOURCES: Mapping[str, tuple[str, ...]] = {
    "eager": ("vtrain-single",),
    "fused": ("simumax-b200",),
}
"""The groups of the calibration file that each framework is fitted to."""

SLOWER, FASTER = "eager", "fused"
"""Of two frameworks on one machine: no constant of the second makes a step longer than the same one
of the first would, so that kernels that are launched one by one are never the faster ones."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Constant:
    """One constant of a framework: where the search starts, and between what it looks."""

    name: str
    start: float
    most: float
    least: float = 0.0


CONSTANTS = (
    Constant(name="host_s_per_kernel", start=2e-5, most=5e-4),
    Constant(name="host_s_per_exchange", start=2e-5, most=5e-4),
    Constant(name="backward_host_share", start=1.0, most=3.0),
    Constant(name="message_s", start=3e-4, most=1e-2),
    Constant(name="step_s", start=5e-3, most=0.2),
    Constant(name="kernel_slowdown", start=1.05, most=1.5, least=1.0),
    Constant(name="expert_layer_s", start=1e-3, most=1e-2),
    Constant(name="hidden_share", start=0.5, most=1.0),
)

SHORTENS = frozenset({"hidden_share"})
"""Constants of which more makes a step shorter."""

ALSO_OF_FASTER = ("host_s_per_kernel", "host_s_per_exchange", "message_s", "step_s")
"""Constants that the runs of the slower framework tell enough of to be a limit for the faster one.
What slows kernels within a step is as much their machine's, and nothing overlaps in these runs."""

OVERLAPPED_SHARE = 0.8
"""Assumed: no run that may be fitted to overlaps its tensor-parallel exchanges."""

SOFT = 0.05
"""Errors of the logarithm from which on a case counts less than in proportion to its square."""

STEP = 0.02
"""Relative step of the derivatives: a simulated time has kinks that a tiny step would meet."""

ROUNDS = 8

ENOUGH = 1e-3
"""Relative change of the cost that ends a search: of errors of some percent, far below repeats."""

NARROWEST = 1e-6
"""Of where a search starts, the least width of the bounds that it looks between."""

ANCHOR = 0.01
"""Pull of each constant to where its search starts, in errors of the logarithm for a change by
that much: one that the runs tell nothing about stays there."""


NOT_FITTED = "tensor_hidden_share by Lee et al. 2025, arXiv:2507.03114; overlapped_share assumed"
"""What the runs tell nothing about."""

Bounds = Mapping[str, tuple[float, float]]


def fit_frameworks(
    cases: Mapping[str, Sequence[Case]], report: Callable[[str], None] = lambda line: None
) -> dict[str, Framework]:
    """The constants of each framework, fitted to its cases.

    The faster one within the constants that the slower one has by itself, and then the slower one
    beyond those of the faster one. A framework without a case to fit to is where a search starts.
    """

    def fit(name: str, bounds: Bounds, start: Framework | None = None) -> Framework:
        try:
            return fit_framework(name, cases[name], report, bounds, start)
        except ParplanError:
            return starting_framework(name)

    alone = fit(SLOWER, {})
    report(f"{SLOWER} by itself: {_values(alone)}")
    faster = fit(FASTER, not_slower_than(alone))
    report(f"{FASTER} within it: {_values(faster)}")
    return {SLOWER: fit(SLOWER, not_faster_than(faster), alone), FASTER: faster}


def _values(found: Framework) -> str:
    return ", ".join(f"{c.name} {getattr(found, c.name):.3g}" for c in CONSTANTS)


def not_slower_than(other: Framework) -> Bounds:
    """Bounds within which a framework costs no more than `other`, as far as its runs tell."""
    least = {c.name: c.least for c in CONSTANTS}
    return {name: (least[name], getattr(other, name)) for name in ALSO_OF_FASTER}


def not_faster_than(other: Framework) -> Bounds:
    """Bounds within which a framework costs no less than `other`."""
    bounds = {}
    for c in CONSTANTS:
        value = getattr(other, c.name)
        bounds[c.name] = (c.least, value) if c.name in SHORTENS else (value, c.most)
    return bounds


def fit_framework(
    name: str,
    cases: Sequence[Case],
    report: Callable[[str], None] = lambda line: None,
    bounds: Bounds | None = None,
    start: Framework | None = None,
) -> Framework:
    """The constants of framework `name` that predict `cases` best: the logarithm of step times.

    bounds: least and most of constants, by name, in place of those of `CONSTANTS`; start: where the
    search starts instead. Cases that cannot be expressed are left out. Raises `ParplanError` when
    none is left.
    """
    from scipy.optimize import least_squares

    refuse_held_out(cases)
    rows = [(case, request) for case in cases if (request := _timed(case)) is not None]
    if not rows:
        raise ParplanError(f"{name}: no case to fit to")
    scale = np.array([constant.start for constant in CONSTANTS])
    least, most = _bounds(bounds or {}) / scale
    first = scale if start is None else np.array([getattr(start, c.name) for c in CONSTANTS])

    def errors(x: np.ndarray) -> np.ndarray:
        found = _framework(name, x * scale, "")
        values = np.array([_log_error(case, request, found) for case, request in rows])
        report(f"{name}: median error {np.median(np.expm1(np.abs(values))):.1%}")
        return values

    def anchored(x: np.ndarray) -> np.ndarray:
        return np.concatenate([errors(x), ANCHOR * (x - 1.0)])

    result = least_squares(
        anchored,
        np.clip(first / scale, least, most),
        bounds=(least, most),
        loss="soft_l1",
        f_scale=SOFT,
        diff_step=np.full(len(CONSTANTS), STEP),
        max_nfev=ROUNDS,
        ftol=ENOUGH,
    )
    median = np.median(np.expm1(np.abs(errors(result.x))))
    groups = ", ".join(sorted({case.group for case, _ in rows}))
    source = (
        f"fitted to {len(rows)} runs of {groups} (experiments/papers/published_calibration.jsonl) "
        f"by parplan validate --fit-frameworks; median error {median:.1%}; {NOT_FITTED}"
    )
    return _framework(name, result.x * scale, source)


def _bounds(given: Bounds) -> np.ndarray:
    """Least and most of each constant, shape [2, constants], never equal."""
    both = np.array([given.get(c.name, (c.least, c.most)) for c in CONSTANTS]).T
    both[1] = np.maximum(both[1], both[0] + NARROWEST * np.array([c.start for c in CONSTANTS]))
    return both


def starting_framework(name: str) -> Framework:
    """The constants that a fit starts from: what is taken where there is no run to fit to."""
    values = np.array([constant.start for constant in CONSTANTS])
    return _framework(name, values, "not fitted: the constants that a fit starts from")


def frameworks_toml(frameworks: Sequence[Framework]) -> str:
    """The text of `sim/software/frameworks.toml`."""
    lines = [
        "# Costs of training software beside its kernels; read by parplan.sim.software.framework.",
        "# Written by parplan validate --fit-frameworks.",
    ]
    for one in frameworks:
        table = {**dataclasses.asdict(one)}
        source = table.pop("source")
        lines += ["", f"[{table.pop('name')}]"]
        lines += [f"{key} = {value:.3g}" for key, value in table.items()]
        lines.append(f'source = "{source}"')
    return "\n".join(lines) + "\n"


def _timed(case: Case) -> CaseRequest | None:
    if case.step_s is None or case.measured.oom:
        return None
    try:
        request = request_of(case)
        compile_plan(request.workload, request.cluster, request.plan)
    except ParplanError:
        return None
    return dataclasses.replace(request, cluster=with_kernel_cache(request.cluster))


def _framework(name: str, values: np.ndarray, source: str) -> Framework:
    fields = {c.name: float(v) for c, v in zip(CONSTANTS, values, strict=True)}
    return Framework(name=name, source=source, overlapped_share=OVERLAPPED_SHARE, **fields)


def _log_error(case: Case, request: CaseRequest, framework: Framework) -> float:
    workload = dataclasses.replace(request.workload, framework=framework)
    step_s = predict(compile_plan(workload, request.cluster, request.plan)).step_s
    assert case.step_s is not None
    return float(np.log(step_s / case.step_s))
