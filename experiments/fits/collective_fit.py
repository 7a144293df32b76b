"""Fits the constants of collectives to published sweeps, on the logarithm of time.

Classes of links are fitted in blocks, one after the other; what a block needs of an earlier one is
kept. Each free constant is drawn weakly to a start value, so that one that the data does not tell
stays there. The loss is soft (Huber-like), against single measurements that were disturbed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from parplan.experiments.fits.collective_data import Sweep
from parplan.hardware.collectives.group import Group, GroupLink
from parplan.hardware.collectives.times import available, work_s
from parplan.hardware.collectives.work import work
from parplan.hardware.network.collective_efficiency import PLAIN, CollectiveEfficiency

Array = NDArray[np.float64]

START = {
    # Start, smallest and largest value.
    "launch_us": (10.0, 0.1, 200.0),
    "step_latencies": (2.0, 0.05, 50.0),
    "bandwidth_share": (1.0, 0.3, 1.5),
    "ramp_bytes": (5e6, 1e2, 1e9),
    "ramp_power": (0.5, 0.02, 2.0),
    "low_latency_step_latencies": (1.0, 0.01, 50.0),
    "low_latency_share": (0.3, 0.005, 1.0),
    "switch_share": (1.3, 0.5, 2.5),
    "all_to_all_share": (0.9, 0.3, 1.2),
    "host_call_us": (10.0, 0.1, 100.0),
}
PULL = 0.02
"""Weight of the pull to the start value, per unit of the logarithm."""

RAMP = ("step_latencies", "bandwidth_share", "ramp_bytes", "ramp_power")
LOW_LATENCY = ("low_latency_step_latencies", "low_latency_share")


@dataclass(frozen=True, slots=True, kw_only=True)
class FitBlock:
    """The constants that are fitted together: the free ones of each class."""

    free: Mapping[str, tuple[str, ...]]
    shared: Mapping[str, str]
    """Class to the class whose launch time and steps it has."""
    fixed: Mapping[str, float] = field(default_factory=dict)
    """Constants of every class of the block that are known from elsewhere."""
    fixed_source: str = ""
    """Where they are known from."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Constants:
    """Everything that the times are computed from."""

    classes: Mapping[str, CollectiveEfficiency]
    host_call_us: float = 0.0
    """Added to what is timed around the calls of a framework; no property of the links."""


# Chosen by cross-validation over the fit part (`cross_validated_errors`; median relative error of
# sizes of 1 MiB and more). Ramp: with it 6.8 % for NVLink 3 and 3.4 % for NVLink 4, without 8.1 and
# 14.6 %. Low-latency protocol: NVLink 2 4.0 % with and 4.1 % without, NVLink 3 6.8 and 7.7 %; where
# switches add up it does harm (NVLink 4 3.4 and 1.4 %, NVLink 5 8.6 and 3.7 %): there the sweeps do
# not show it, since the switch serves short all-reduces. All-gathers need it, of which there is no
# sweep with short messages, so it is taken from the table in NCCL's src/graph/tuning.cc (LL on
# NVLink: about 0.5 us a step, a quarter of the bandwidth); NVLink 4 stays at 1.4 %, NVLink 5 5.6 %.
BLOCKS = (
    FitBlock(free={"nvlink2-mesh": ("launch_us", *RAMP, *LOW_LATENCY)}, shared={}),
    FitBlock(
        free={"nvlink3-switch": ("launch_us", *RAMP, *LOW_LATENCY, "all_to_all_share")}, shared={}
    ),
    FitBlock(
        free={
            "nvlink4-switch": ("launch_us", *RAMP, "switch_share"),
            "nvlink5-switch": (*RAMP[1:], "switch_share"),
            "host": ("host_call_us",),
        },
        shared={"nvlink5-switch": "nvlink4-switch"},
        fixed={"low_latency_step_latencies": 0.25, "low_latency_share": 0.25},
        fixed_source="low-latency protocol as in NCCL's src/graph/tuning.cc",
    ),
    FitBlock(free={"xgmi-mesh": ("bandwidth_share",)}, shared={}),
    FitBlock(
        free={"infiniband": (*RAMP, LOW_LATENCY[0])},
        shared={},
        fixed={"low_latency_share": 0.09},
        fixed_source="bandwidth of the low-latency protocol as in NCCL's src/graph/tuning.cc (LL "
        "between more than two nodes: 19 of 200 GB/s of an A100 node, 35 of 400 GB/s of an H100's)",
    ),
    FitBlock(free={"efa": (*RAMP, *LOW_LATENCY)}, shared={}),
)

LATENCIES = ("launch_us", "step_latencies", "low_latency_step_latencies")


def fit(
    sweeps: Sequence[Sweep], blocks: Sequence[FitBlock] = BLOCKS, num_starts: int = 6, seed: int = 0
) -> Constants:
    """The constants that fit `sweeps` best; the same for the same arguments."""
    constants = Constants(classes={})
    for block in blocks:
        own = [sweep for sweep in sweeps if sweep.link_class in block.free]
        if own:
            constants = _fit_block(own, block, constants, num_starts, np.random.default_rng(seed))
    return constants


def predicted_s(sweep: Sweep, constants: Constants) -> Array:
    """Seconds of each size of a sweep by the fastest algorithm and protocol."""
    group = with_constants(sweep, constants)
    sizes = np.array(sweep.num_bytes)
    times = [
        work_s(done, group, sweep.op, algorithm, protocol)
        for algorithm in sweep.algorithms
        if (done := work(sweep.op, algorithm, group.num_ranks, group.num_nodes, sizes))  # type: ignore[arg-type]
        for protocol in sweep.protocols
        if available(group, algorithm, protocol)
    ]
    extra_s = constants.host_call_us * 1e-6 if sweep.host_timed else 0.0
    fastest: Array = np.min(times, axis=0) + extra_s
    return fastest


def with_constants(sweep: Sweep, constants: Constants) -> Group:
    """The group of a sweep with `constants` on its links."""

    def tuned(link: GroupLink | None, name: str | None) -> GroupLink | None:
        return link and replace(link, efficiency=constants.classes.get(name or "", PLAIN))

    return replace(
        sweep.group,
        inside=tuned(sweep.group.inside, sweep.inside_class),
        across=tuned(sweep.group.across, sweep.across_class),
    )


def relative_errors(sweep: Sweep, constants: Constants) -> Array:
    """Absolute relative error of the time of each size."""
    errors: Array = np.abs(predicted_s(sweep, constants) / np.array(sweep.seconds) - 1)
    return errors


def cross_validated_errors(
    sweeps: Sequence[Sweep], blocks: Sequence[FitBlock], num_starts: int = 2
) -> dict[str, Array]:
    """Relative errors of each sweep when it is left out of the fit of all others, by id.

    Only for choosing what to fit: give it sweeps of the fit part alone.
    """
    errors = {}
    for block in blocks:
        own = [sweep for sweep in sweeps if sweep.link_class in block.free]
        for sweep in own:
            others = [other for other in own if other.id != sweep.id]
            if any(other.link_class == sweep.link_class for other in others):
                constants = fit(others, [block], num_starts)
                errors[sweep.id] = relative_errors(sweep, constants)
    return errors


def _fit_block(
    sweeps: Sequence[Sweep],
    block: FitBlock,
    known: Constants,
    num_starts: int,
    rng: np.random.Generator,
) -> Constants:
    from scipy.optimize import least_squares

    names = [(cls, name) for cls, free in block.free.items() for name in free]
    start, low, high = (np.log([START[name][column] for _, name in names]) for column in range(3))

    def residuals(x: Array) -> Array:
        constants = _constants(names, x, block, known)
        off = [np.log(predicted_s(s, constants) / np.array(s.seconds)) for s in sweeps]
        return np.concatenate([*off, PULL * (x - start)])

    best = None
    for number in range(num_starts):
        first = start + (rng.normal(0, 0.7, len(start)) if number else 0.0)
        found = least_squares(
            residuals,
            np.clip(first, low + 1e-6, high - 1e-6),
            bounds=(low, high),
            loss="soft_l1",
            f_scale=0.1,
        )
        if best is None or found.cost < best.cost:
            best = found
    assert best is not None
    return _constants(names, best.x, block, known)


def _constants(
    names: Sequence[tuple[str, str]], x: Array, block: FitBlock, known: Constants
) -> Constants:
    values: dict[str, dict[str, float]] = {}
    for (cls, name), value in zip(names, np.exp(x), strict=True):
        values.setdefault(cls, {})[name] = float(value)
    for cls, other in block.shared.items():
        for name in LATENCIES:
            if name in values[other]:
                values[cls][name] = values[other][name]
    host = values.pop("host", {"host_call_us": known.host_call_us})
    fitted = {cls: CollectiveEfficiency(**{**block.fixed, **own}) for cls, own in values.items()}
    return Constants(classes={**known.classes, **fitted}, **host)
