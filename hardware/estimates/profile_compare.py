"""Agreement of two profiles of one machine within their noise."""

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from parplan.errors import ParplanError
from parplan.hardware.estimates.profile import MeasuredKernel, MeasuredLayer, Profile, Timing
from parplan.hardware.kernels.kernel import Attention, MemoryBound


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """One thing that both profiles measured."""

    kind: str
    first: Timing
    second: Timing

    @property
    def agrees(self) -> bool:
        """Whether the intervals `median ± noise` of the two overlap."""
        apart = abs(self.first.seconds - self.second.seconds)
        return apart <= self.first.spread_s + self.second.spread_s

    @property
    def difference(self) -> float:
        """The second's seconds over the first's, minus one."""
        return self.second.seconds / self.first.seconds - 1

    @property
    def noise(self) -> float:
        """The mean of the two noises, each relative to its median."""
        return statistics.mean(t.spread_s / t.seconds for t in (self.first, self.second))


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """Agreement of the pairs of one kind."""

    kind: str
    compared: int
    agree: int
    difference: float
    """Median of the relative differences, with their sign: a drift of the machine shows here."""
    absolute_difference: float
    """Median without the sign."""
    noise: float
    """Median."""


def compared(first: Profile, second: Profile) -> list[Pair]:
    """Everything that both measured; raises `ParplanError` when that is nothing."""
    ours, theirs = dict(_timings(first)), dict(_timings(second))
    pairs = [
        Pair(kind=kind, first=ours[kind, key], second=theirs[kind, key])
        for kind, key in ours
        if (kind, key) in theirs
    ]
    if not pairs:
        raise ParplanError("the two profiles have no measurement in common")
    return pairs


def agreements(pairs: Sequence[Pair]) -> list[Agreement]:
    """One for each kind, in the order of the pairs, and one for all."""
    kinds = list(dict.fromkeys(pair.kind for pair in pairs))
    found = [_agreement(kind, [p for p in pairs if p.kind == kind]) for kind in kinds]
    return [*found, _agreement("all", pairs)]


def _agreement(kind: str, pairs: Sequence[Pair]) -> Agreement:
    return Agreement(
        kind=kind,
        compared=len(pairs),
        agree=sum(pair.agrees for pair in pairs),
        difference=statistics.median(pair.difference for pair in pairs),
        absolute_difference=statistics.median(abs(pair.difference) for pair in pairs),
        noise=statistics.median(pair.noise for pair in pairs),
    )


def _timings(profile: Profile) -> Iterator[tuple[tuple[str, object], Timing]]:
    for kernel in profile.kernels:
        yield (_kind(kernel), kernel.kernel), kernel.timing
    for collective in profile.collectives:
        yield (collective.collective.op, collective.collective), collective.timing
    for layer in profile.layers:
        yield from _layer(layer)
    if profile.optimizer is not None:
        yield ("optimizer", profile.optimizer.num_parameters), profile.optimizer.timing


def _kind(measured: MeasuredKernel) -> str:
    kernel = measured.kernel
    if isinstance(kernel, MemoryBound):
        return "memory-bound" if kernel.family == "copy" else f"{kernel.family} {kernel.direction}"
    if isinstance(kernel, Attention):
        return f"attention {kernel.dtype} {kernel.direction}"
    return f"gemm {kernel.dtype}"


def _layer(layer: MeasuredLayer) -> Iterator[tuple[tuple[str, object], Timing]]:
    key = (
        *(layer.model, layer.layer, layer.micro_batch, layer.seq_len),
        *(layer.precision, layer.recomputation),
    )
    for direction, seconds, spread_s in (
        ("forward", layer.forward_s, layer.spread_forward_s),
        ("backward", layer.backward_s, layer.spread_backward_s),
    ):
        timing = Timing(seconds=seconds, spread_s=spread_s, samples=layer.samples)
        yield (f"layers {direction}", key), timing
