"""Measured values of a run that cannot be right, or are hard to believe: one line each.

They are told, not left out: what a reader does with such a run is the reader's decision.
"""

import math
from collections.abc import Iterator
from itertools import combinations

from parplan.errors import ParplanError
from parplan.experiments.cases.read import Case, Measured
from parplan.hardware.network.cluster import Cluster
from parplan.sim.memory.peak import RankMemory
from parplan.sim.workload import Workload

LEAST_SHARE = 0.005
"""Of the peak rate. The slowest of 1,802 timed published runs, a small model cut into many pieces,
reaches 0.8 %."""

USUAL_SHARE = (0.01, 1.0)
"""Where a value in another unit would have to lie for that unit to be named."""

SAME = 0.05
"""Two values for one step may differ by this, and by one in the last digit of each."""

FLOPS_APART = 2.2
"""Two FLOP rates of one run: sources count recomputation or not (1.33), all of the attention or
half of it, and take the peak of 8 or of 16 bits (2)."""

LEAST_STATE = 0.5
"""Of the predicted parameters, gradients and optimizer state, that a measured peak has at least."""

RATES = ("tokens_per_s", "tokens_per_s_per_gpu", "samples_per_s", "samples_per_s_per_gpu")


def doubts_alone(case: Case) -> tuple[str, ...]:
    """What contradicts itself within `case`, whatever machine it ran on."""
    return tuple(_contradictions(case))


def doubts_of(
    case: Case, workload: Workload, cluster: Cluster, memory: tuple[RankMemory, ...]
) -> tuple[str, ...]:
    """Every doubt about the measured values of `case`; `memory`: predicted for each stage."""
    beside = [*_speed(case, workload, cluster), *_memory(case, cluster, memory)]
    return (*doubts_alone(case), *beside)


def _contradictions(case: Case) -> Iterator[str]:
    m = case.measured
    for one, other in combinations(_steps(case).items(), 2):
        (name, (step_s, slack)), (second, (other_s, other_slack)) = one, other
        if not _agree(step_s, other_s, 1 + SAME + slack + other_slack):
            yield (
                f"{name} means a step of {step_s:.4g} s and {second} one of {other_s:.4g} s: "
                "they contradict each other"
            )
    for name in ("mfu", "hfu"):
        share = getattr(m, name)
        if share is not None and share > 1:
            hint = ": in per cent?" if share / 100 <= 1 else ""
            yield f"{name} {share:g} is above 100 % of the peak{hint}"
    if m.oom and _steps(case):
        yield "oom: a run that ran out of memory has a step time"


def _steps(case: Case) -> dict[str, tuple[float, float]]:
    """What each value says of the step in seconds, and how far rounding may have moved it."""
    m, n = case.measured, case.hardware.n_accelerators
    batch, seq_len = case.parallel.global_batch, case.model.seq_len
    found = {}
    if m.step_time_s is not None:
        found["step_time_s"] = (m.step_time_s, _last_digit(m.step_time_s))
    for name in RATES:
        rate: float | None = getattr(m, name)
        if not rate or batch is None or (seq_len is None and name.startswith("tokens")):
            continue
        amount = float(batch * (seq_len or 1) if name.startswith("tokens") else batch)
        amount /= n if name.endswith("per_gpu") else 1
        found[name] = (amount / rate, _last_digit(rate))
    return found


def _last_digit(value: float) -> float:
    """One in the last digit that is printed (some sources cut off), relative to the value."""
    digits = f"{value:.9f}".rstrip("0").partition(".")[2]
    return 10.0 ** -len(digits) / value


def _agree(one: float, other: float, within: float) -> bool:
    return max(one / other, other / one) <= within


def _speed(case: Case, workload: Workload, cluster: Cluster) -> Iterator[str]:
    step_s, m = case.step_s, case.measured
    if step_s is None:
        return
    n = cluster.num_accelerators
    try:
        peak = n * cluster.accelerator.peak_flop_per_s.of(workload.product_dtype)
    except ParplanError:
        return
    rate = workload.model_flops / step_s
    # Half of the attention matrix is what a causal mask leaves.
    share, least = rate / peak, workload.causal_flops / step_s / peak
    name, value = _printed(m, step_s)
    if least > 1:
        yield (
            f"{name} {value:g} is {least:.0%} of the peak rate in {workload.product_dtype}"
            f"{_unit(name, share, n, too_fast=True)}"
        )
    elif share < LEAST_SHARE:
        yield (
            f"{name} {value:g} is {share:.2g} of the peak rate, less than is plausible"
            f"{_unit(name, share, n, too_fast=False)}"
        )
    yield from _flop_rates(m, rate / n, share)


def _flop_rates(m: Measured, rate: float, share: float) -> Iterator[str]:
    """`rate`: FLOP/s of the model on each accelerator by the step; `share`: of the peak."""
    if m.tflops_per_gpu and not _agree(m.tflops_per_gpu * 1e12, rate, FLOPS_APART):
        yield (
            f"tflops_per_gpu {m.tflops_per_gpu:g} contradicts the step, by which it is "
            f"{rate / 1e12:.3g}"
        )
    if m.mfu and m.mfu <= 1 and not _agree(m.mfu, share, FLOPS_APART):
        yield f"mfu {m.mfu:g} contradicts the step, by which it is {share:.2g}"


def _printed(m: Measured, step_s: float) -> tuple[str, float]:
    """The value that the step comes from."""
    for name in ("step_time_s", "tokens_per_s_per_gpu", "tokens_per_s", *RATES[2:][::-1]):
        value = getattr(m, name)
        if value:
            return name, value
    return "the derived step", step_s


def _unit(name: str, share: float, n: int, *, too_fast: bool) -> str:
    """`: in milliseconds?` and such, where that would make the value a usual one."""
    low, high = USUAL_SHARE
    if name == "step_time_s":
        known = {"minutes": 1 / 60} if too_fast else {"milliseconds": 1e3, "microseconds": 1e6}
        return next((f": in {u}?" for u, f in known.items() if low <= share * f <= high), "")
    if too_fast and name.endswith("per_gpu") and low <= share / n <= high:
        return f": of all {n} accelerators together?"
    if not too_fast and name in RATES and not name.endswith("per_gpu") and low <= share * n <= high:
        return f": of one of {n} accelerators?"
    return ""


def _memory(case: Case, cluster: Cluster, memory: tuple[RankMemory, ...]) -> Iterator[str]:
    peak = case.peak_memory_bytes
    if peak is None:
        return
    name = "peak_memory_gib" if case.measured.peak_memory_gib is not None else "peak_memory_gb"
    value, most = getattr(case.measured, name), cluster.accelerator.memory_bytes
    if peak > _largest(most):
        hint = ": in MB?" if peak / 1e3 <= most else ""
        hint = ": of all accelerators of a node?" if peak / most in (2.0, 4.0, 8.0) else hint
        yield (
            f"{name} {value:g} is more than the {most / 1e9:.3g} GB of a "
            f"{cluster.accelerator.name}{hint}"
        )
    state = max(rank.state_bytes for rank in memory)
    if peak < LEAST_STATE * state:
        yield (
            f"{name} {value:g} is less than half of the {state / 1e9:.3g} GB of parameters, "
            "gradients and optimizer state"
        )


def _largest(memory_bytes: float) -> float:
    """The data sheet's memory in GiB, as if it were all used: sources write GB for GiB."""
    return math.ceil(memory_bytes / 1e9) * 2.0**30
