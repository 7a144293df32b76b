"""Simulated time in whole picoseconds, so that equal instants compare equal.

`StageTicks` are the costs of many candidates at once, converted once.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import numpy as np
import numpy.typing as npt

from parplan.errors import ParplanError
from parplan.sim.costs import StageCosts

PS_PER_S = 10**12

VARIANTS = 6
"""Durations of a stage: F, B, I, W, and the B and the W that create the gradients of a step."""

Ints = npt.NDArray[np.int64]

_FIELDS = (
    *("forward_s", "input_gradient_s", "weight_gradient_s", "first_gradient_extra_s"),
    *("send_s", "latency_s", "reduce_s", "optimizer_s", "gather_s"),
    *("reduce_buckets", "reduce_each_micro_batch", "norm_sync_s", "overlap_share"),
    "post_validation",
)


MOST_PS = 2**62
"""A step that could take longer is refused: with room to spare, 64 bits hold its times."""


def to_ps(seconds: float) -> int:
    """Seconds as whole picoseconds; raises `ParplanError` for what is not a time."""
    if not abs(seconds) < MOST_PS / PS_PER_S:
        raise ParplanError(
            f"costs: {seconds} s; at most {MOST_PS / PS_PER_S:.3g} s can be simulated"
        )
    return round(seconds * PS_PER_S)


EXACT_PS = 2**53
"""Below it every whole number is a float of its own."""


def to_seconds(times_ps: Ints) -> npt.NDArray[np.float64]:
    """Picoseconds as the nearest seconds, each rounded once, as Python divides whole numbers.

    numpy rounds a time of 2^53 ps (9,007 s) or more to a float before it divides, and may be off by
    one place. Order is kept: what is not later in picoseconds is not later in seconds.
    """
    seconds = np.asarray(times_ps / PS_PER_S)
    long = np.abs(times_ps) >= EXACT_PS
    if long.any():
        seconds[long] = [int(time) / PS_PER_S for time in np.asarray(times_ps)[long]]
    return seconds


def check_span(costs: Sequence[StageCosts], num_actions: int) -> None:
    """Raise `ParplanError` where a step of so many actions may exceed the range of times.

    As if every action, with its message and its reduction, waited for all others.
    """
    names = ("forward_s", "input_gradient_s", "weight_gradient_s", "send_s", "latency_s")
    each = sum(abs(getattr(cost, name)) for cost in costs for name in names)
    once = sum(abs(c.first_gradient_extra_s) + c.optimizer_s + c.gather_s for c in costs)
    reduced = sum(cost.reduce_s for cost in costs)
    longest = (each + reduced) * num_actions / len(costs) + once + reduced
    if not longest < MOST_PS / PS_PER_S:
        raise ParplanError(
            f"costs: a step of up to {longest:.3g} s; at most {MOST_PS / PS_PER_S:.3g} s can be "
            "simulated"
        )


def pair_ps(forward: Ints, backward: Ints, overlap_share: npt.NDArray[np.float64]) -> Ints:
    """Duration of a forward and a backward together: F + B less a share of the shorter one."""
    saved = np.rint(overlap_share * np.minimum(forward, backward))
    return np.asarray(forward + backward - saved.astype(np.int64))


@dataclass(frozen=True, slots=True, kw_only=True)
class StageTicks:
    """The costs of `num_candidates` candidates on the same stages, in picoseconds.

    `durations` has shape [candidates, stages, `VARIANTS`], all others [candidates, stages].
    """

    durations: Ints
    send: Ints
    latency: Ints
    reduce: Ints
    reduce_buckets: Ints
    reduce_each_micro_batch: npt.NDArray[np.bool_]
    optimizer: Ints
    gather: Ints
    norm_sync: Ints
    overlap_share: npt.NDArray[np.float64]
    post_validation: npt.NDArray[np.bool_]

    @property
    def num_candidates(self) -> int:
        """The number of candidates."""
        return len(self.durations)

    @property
    def num_stages(self) -> int:
        """Stages of each candidate."""
        return int(self.durations.shape[1])


def stage_ticks(candidates: Sequence[Sequence[StageCosts]]) -> StageTicks:
    """The costs of the stages of every candidate.

    Raises `ParplanError` when the candidates differ in the number of stages.
    """
    counts = sorted({len(stages) for stages in candidates})
    if len(counts) != 1 or counts[0] == 0:
        raise ParplanError(f"candidates: expected costs of equally many stages, got {counts}")
    get = attrgetter(*_FIELDS)
    rows = [get(stage) for stages in candidates for stage in stages]
    table = np.array(rows, dtype=np.float64).T.reshape(len(_FIELDS), len(candidates), counts[0])
    values: dict[str, Any] = dict(zip(_FIELDS, table, strict=True))
    return ticks_of_seconds(**values)


def ticks_of_seconds(
    *,
    forward_s: npt.ArrayLike,
    input_gradient_s: npt.ArrayLike,
    weight_gradient_s: npt.ArrayLike,
    first_gradient_extra_s: npt.ArrayLike = 0.0,
    send_s: npt.ArrayLike = 0.0,
    latency_s: npt.ArrayLike = 0.0,
    reduce_s: npt.ArrayLike = 0.0,
    optimizer_s: npt.ArrayLike = 0.0,
    gather_s: npt.ArrayLike = 0.0,
    reduce_buckets: npt.ArrayLike = 1,
    reduce_each_micro_batch: npt.ArrayLike = False,
    norm_sync_s: npt.ArrayLike = 0.0,
    overlap_share: npt.ArrayLike = 0.0,
    post_validation: npt.ArrayLike = False,
) -> StageTicks:
    """The fields of `StageCosts` as arrays of shape [candidates, stages]; scalars are repeated."""
    f, i, w, extra = (
        np.atleast_2d(np.asarray(a, dtype=np.float64))
        for a in (forward_s, input_gradient_s, weight_gradient_s, first_gradient_extra_s)
    )
    shape = np.broadcast_shapes(f.shape, i.shape, w.shape)

    def whole(values: npt.ArrayLike) -> Ints:
        wide = np.broadcast_to(np.asarray(values, dtype=np.float64), shape)
        short = (wide >= 0) & (wide < MOST_PS / PS_PER_S)
        if not short.all():
            raise ParplanError(
                f"costs: {wide.flat[np.argmin(short)]} s; from 0 to {MOST_PS / PS_PER_S:.3g} s "
                "can be simulated"
            )
        return np.rint(wide * PS_PER_S).astype(np.int64)

    variants = (f, i + w, i, w, (i + w) + extra, w + extra)
    return StageTicks(
        durations=np.stack([whole(np.maximum(v, 0.0)) for v in variants], axis=2),
        send=whole(send_s),
        latency=whole(latency_s),
        reduce=whole(reduce_s),
        reduce_buckets=np.broadcast_to(np.asarray(reduce_buckets, dtype=np.int64), shape),
        reduce_each_micro_batch=np.broadcast_to(
            np.asarray(reduce_each_micro_batch, dtype=np.bool_), shape
        ),
        optimizer=whole(optimizer_s),
        gather=whole(gather_s),
        norm_sync=whole(norm_sync_s),
        overlap_share=np.broadcast_to(np.asarray(overlap_share, dtype=np.float64), shape),
        post_validation=np.broadcast_to(np.asarray(post_validation, dtype=np.bool_), shape),
    )
