"""Kernel and collective times from a profile: measured, interpolated or extrapolated.

Efficiencies are interpolated (FLOP/s or bytes/s), linearly in the logarithms of the sizes, over a
Delaunay triangulation of what was measured. Outside of its hull the nearest point's efficiency
holds, and the answer says so.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np

from parplan.hardware.estimates.estimate import Estimate, Origin
from parplan.hardware.estimates.profile import CollectiveCall, Profile, Timing
from parplan.hardware.kernels.kernel import Attention, Gemm, Kernel, MemoryBound

if TYPE_CHECKING:
    from scipy.spatial import Delaunay

T = TypeVar("T", bound=Hashable)

INSIDE = 1e-9
"""How far outside of a triangle (share of its size) a point may lie and still belong to it."""


@dataclass(frozen=True, slots=True)
class _Place:
    """The position of a kernel or collective among those of its kind."""

    family: Hashable
    """Nothing is concluded from one family to another."""
    group: tuple[float | str | bool, ...]
    """Within it a group of its own is preferred, or else the one that differs least."""
    sizes: tuple[float, ...]
    work: float
    """Seconds times efficiency: FLOP, or bytes."""


@dataclass(frozen=True, slots=True)
class _Group:
    """The measurements that differ in their sizes alone."""

    logs: np.ndarray
    """(points, sizes): logarithms."""
    log_rates: np.ndarray
    """(points,): logarithms of work per second."""
    spreads: np.ndarray
    """(points,): noise relative to the seconds."""
    varying: np.ndarray
    """(sizes,): whether the points differ in this size."""
    mesh: Delaunay | None
    """Over the varying sizes; None for one size or points on a line or in a plane."""
    shortest_s: float


@dataclass(frozen=True, slots=True)
class _Table(Generic[T]):
    """A look-up over one kind of thing."""

    exact: Mapping[T, Timing]
    families: Mapping[Hashable, Mapping[tuple[float | str | bool, ...], _Group]]


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfileIndex:
    """A profile made ready for look-ups: build it once with `profile_index`."""

    profile: Profile
    kernels: _Table[Kernel]
    collectives: _Table[CollectiveCall]

    def kernel(self, kernel: Kernel) -> Estimate | None:
        """Time of `kernel`; None when none of its kind was measured."""
        return _look_up(self.kernels, kernel, _kernel_place(kernel))

    def collective(self, collective: CollectiveCall) -> Estimate | None:
        """Time of `collective`; None when that operation was not measured."""
        return _look_up(self.collectives, collective, _collective_place(collective))


def profile_index(profile: Profile) -> ProfileIndex:
    """The look-up tables of `profile`."""
    kernels = [(m.kernel, _kernel_place(m.kernel), m.timing) for m in profile.kernels]
    collectives = [
        (m.collective, _collective_place(m.collective), m.timing) for m in profile.collectives
    ]
    return ProfileIndex(profile=profile, kernels=_table(kernels), collectives=_table(collectives))


def _kernel_place(kernel: Kernel) -> _Place:
    if isinstance(kernel, MemoryBound):
        # A copy is one whichever way it goes.
        direction = "forward" if kernel.family == "copy" else kernel.direction
        kind = (kernel.family, kernel.provider, direction)
        return _Place("memory", kind, (kernel.num_bytes,), kernel.num_bytes)
    if isinstance(kernel, Gemm):
        sizes = (float(kernel.m), float(kernel.n), float(kernel.k), float(kernel.batch))
        group = (kernel.transposed, kernel.accumulate)
        return _Place(("gemm", kernel.dtype), group, sizes, kernel.flops)
    return _attention_place(kernel)


def _attention_place(kernel: Attention) -> _Place:
    """Ratios stand for the sizes that are mostly equal, so that they drop out when they are."""
    sizes = (
        float(kernel.query_len),
        kernel.key_len / kernel.query_len,
        float(kernel.batch * kernel.heads),
        kernel.heads / kernel.kv_heads,
    )
    kind = (kernel.flash, kernel.slowdown, kernel.window)
    family = ("attention", kernel.dtype, kernel.direction, kind)
    return _Place(family, (kernel.causal, float(kernel.head_size)), sizes, kernel.flops)


def _collective_place(c: CollectiveCall) -> _Place:
    sizes = (float(c.num_bytes), float(c.num_ranks), c.num_ranks / c.ranks_per_node)
    return _Place(c.op, (), sizes, c.bus_bytes)


def _table(measured: Sequence[tuple[T, _Place, Timing]]) -> _Table[T]:
    rows: dict[Hashable, dict[tuple[Any, ...], list[tuple[_Place, Timing]]]] = {}
    for _, place, timing in measured:
        rows.setdefault(place.family, {}).setdefault(place.group, []).append((place, timing))
    return _Table(
        exact={thing: timing for thing, _, timing in measured},
        families={
            family: {key: _group(points) for key, points in groups.items()}
            for family, groups in rows.items()
        },
    )


def _group(points: Sequence[tuple[_Place, Timing]]) -> _Group:
    logs = np.log([place.sizes for place, _ in points])
    seconds = np.array([timing.seconds for _, timing in points])
    work = np.array([place.work for place, _ in points])
    spreads = np.array([timing.spread_s for _, timing in points]) / seconds
    varying = np.ptp(logs, axis=0) > 0
    return _Group(
        logs=logs,
        log_rates=np.log(work / seconds),
        spreads=spreads,
        varying=varying,
        mesh=_mesh(logs[:, varying]),
        shortest_s=float(seconds.min()),
    )


def _mesh(points: np.ndarray) -> Delaunay | None:
    from scipy.spatial import Delaunay, QhullError

    if points.shape[1] < 2 or len(points) <= points.shape[1]:
        return None
    try:
        return Delaunay(points)
    except QhullError:
        # All in one plane.
        return None


def _look_up(table: _Table[T], thing: T, place: _Place) -> Estimate | None:
    exact = table.exact.get(thing)
    if exact is not None:
        return Estimate(seconds=exact.seconds, origin="measured", spread_s=exact.spread_s)
    groups = table.families.get(place.family)
    if groups is None:
        return None
    own = groups.get(place.group)
    group = own or groups[min(groups, key=lambda key: _difference(key, place.group))]
    return _from_group(group, place, is_own=own is not None)


def _difference(a: Iterable[float | str | bool], b: Iterable[float | str | bool]) -> float:
    """Distance of two groups: of numbers by their ratio, of anything else 10."""
    total = 0.0
    for x, y in zip(a, b, strict=True):
        if isinstance(x, float) and isinstance(y, float):
            total += abs(math.log(x / y))
        else:
            total += 10.0 * (x != y)
    return total


def _from_group(group: _Group, place: _Place, is_own: bool) -> Estimate:
    if not place.work:
        return Estimate(seconds=group.shortest_s, origin="extrapolated")
    logs = np.log(place.sizes)
    fixed = ~group.varying
    inside = is_own and bool(np.all(np.abs(logs[fixed] - group.logs[0, fixed]) < INSIDE))
    weights = _weights(group, logs[group.varying])
    distances = np.sum((group.logs - logs) ** 2, axis=1)
    nearest = int(np.argmin(distances))
    if weights is None:
        rate, inside = group.log_rates[nearest], False
    else:
        vertices, shares = weights
        rate = float(shares @ group.log_rates[vertices])
    seconds = place.work / math.exp(rate)
    if not inside:
        # Whatever is done takes as long as the shortest that was seen.
        seconds = max(seconds, group.shortest_s)
    origin: Origin = "interpolated" if inside else "extrapolated"
    return Estimate(
        seconds=seconds, origin=origin, spread_s=float(group.spreads[nearest]) * seconds
    )


def _weights(group: _Group, logs: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """The points around `logs` and their shares, which sum to 1; None outside of the hull."""
    if group.mesh is not None:
        return _in_mesh(group.mesh, logs)
    if len(logs) == 0:
        return np.array([0]), np.array([1.0])
    if len(logs) == 1:
        return _on_line(group.logs[:, group.varying][:, 0], float(logs[0]))
    return None


def _in_mesh(mesh: Delaunay, logs: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    simplex = int(mesh.find_simplex(logs, tol=INSIDE))
    if simplex < 0:
        return None
    transform = mesh.transform[simplex]
    first = transform[:-1] @ (logs - transform[-1])
    shares = np.clip(np.append(first, 1 - first.sum()), 0.0, None)
    if not np.isfinite(shares).all():
        # A sliver without volume.
        return None
    return mesh.simplices[simplex], shares / shares.sum()


def _on_line(points: np.ndarray, log: float) -> tuple[np.ndarray, np.ndarray] | None:
    order = np.argsort(points)
    ordered = points[order]
    if not ordered[0] - INSIDE <= log <= ordered[-1] + INSIDE:
        return None
    right = int(np.clip(np.searchsorted(ordered, log), 1, len(ordered) - 1))
    share = (log - ordered[right - 1]) / (ordered[right] - ordered[right - 1])
    share = min(max(float(share), 0.0), 1.0)
    return order[right - 1 : right + 1], np.array([1 - share, share])
