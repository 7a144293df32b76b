"""Published sweeps of collectives over sizes, and which of them a fit may see.

Not used: sweeps that give a share of a bandwidth which is not known, or no message size; runs that
are there twice; other conventions. Values printed with two decimals are dropped where rounding
alone is worse than 5 %.

The split was fixed before anything was fitted. Sweeps are grouped by class of links, op and kind
(a curve of five or more sizes, or points). In a group of three or more, every third one in the
order of the SHA-256 of its id is held out. A curve of a smaller group is split inside: every second
size is left out ("interpolated"). A point of a smaller group is never fitted ("transfer").
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from parplan._strict import build, parse_json, read_text, read_toml
from parplan.errors import ParplanError
from parplan.hardware.collectives.group import Group, group_of
from parplan.hardware.collectives.times import LIBRARY, PROTOCOLS, bus_factor
from parplan.hardware.machines.presets import cluster_preset
from parplan.hardware.network.cluster import Cluster
from parplan.hardware.network.collective_efficiency import EfficiencyTable, class_of

PAPERS = Path(__file__).parents[1] / "papers"
SWEEPS = PAPERS / "collectives.jsonl"
MACHINES = PAPERS / "collective_machines.toml"

OPS = {
    "allreduce": "all_reduce",
    "all2all": "all_to_all",
    "all_reduce (NVLS)": "all_reduce",
    "all_reduce (ring)": "all_reduce",
    "NIC path": "all_gather",
}
"""Names of the sources for ours, where they differ. Shares of the path through the interfaces are
the same for all collectives that go round a ring."""

SHARES = "efficiency_fraction"
CURVE_SIZES = 5
SMALLEST_PRINTED = 0.1
"""Bandwidths below are rounded by more than 5 % when two decimals are printed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PointTable:
    """One size of a sweep."""

    size_bytes: int | None
    value: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepTable:
    """A line of collectives.jsonl."""

    id: str
    source: str
    source_where: str
    op: str
    hardware: str
    n_accelerators: int
    n_nodes: int
    metric: str
    points: tuple[PointTable, ...]
    notes: str
    confidence: str


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineTable:
    """`[[machine]]` of collective_machines.toml."""

    hardware: tuple[str, ...]
    node: str
    network_gb_per_s: float | None = None
    shares_of_gb_per_s: float | None = None
    """What sweeps are given as shares of."""
    protocols: tuple[str, ...] = PROTOCOLS
    """Among which the library chose."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UnusableTable:
    """`[[unusable]]` of collective_machines.toml."""

    id: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class MachinesTable:
    """collective_machines.toml."""

    machine: tuple[MachineTable, ...]
    unusable: tuple[UnusableTable, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sweep:
    """Measured seconds of one collective over sizes."""

    id: str
    hardware: str
    op: str
    group: Group
    inside_class: str | None
    across_class: str | None
    algorithms: tuple[str, ...]
    protocols: tuple[str, ...]
    host_timed: bool
    """Timed around the calls of a framework, not by the library's own benchmark."""
    num_bytes: tuple[float, ...]
    seconds: tuple[float, ...]
    part: str = "fit"
    """fit, held out, interpolated or transfer."""

    @property
    def link_class(self) -> str:
        """The class of the links that it tells most about."""
        return self.across_class or self.inside_class or "none"

    def only(self, wanted: Sequence[bool], part: str) -> "Sweep":
        """The sizes that are wanted, as `part`."""
        sizes = tuple(s for s, w in zip(self.num_bytes, wanted, strict=True) if w)
        seconds = tuple(s for s, w in zip(self.seconds, wanted, strict=True) if w)
        return replace(self, num_bytes=sizes, seconds=seconds, part=part)


def read_sweeps(
    path: Path, classes: Mapping[str, EfficiencyTable]
) -> tuple[list[Sweep], dict[str, str]]:
    """The usable sweeps of a file, split, and the reason for each of the others by id.

    Raises `ParplanError` with file and line for a malformed one or an unknown machine.
    """
    machines = build(MachinesTable, read_toml(MACHINES), str(MACHINES))
    known = {name: machine for machine in machines.machine for name in machine.hardware}
    unusable = {table.id: table.reason for table in machines.unusable}
    clusters: dict[tuple[str, int], Cluster] = {}
    sweeps = []
    for line, table in enumerate(_tables(path), start=1):
        machine = known.get(table.hardware)
        whole = None if machine is None else machine.shares_of_gb_per_s
        reason = unusable.get(table.id) or _unusable(table, whole)
        if reason:
            unusable[table.id] = reason
        elif machine is None:
            raise ParplanError(f"{path}:{line}: {table.hardware!r} is not in {MACHINES.name}")
        else:
            try:
                key = table.hardware, table.n_nodes
                if key not in clusters:
                    clusters[key] = _cluster(machine, table.n_nodes)
                own = _with_bandwidths(table, whole)
                sweeps.append(_sweep(own, clusters[key], classes, machine.protocols))
            except ParplanError as error:
                raise ParplanError(f"{path}:{line}: {error}") from None
    return split(sweeps), unusable


def _tables(path: Path) -> list[SweepTable]:
    lines = enumerate(read_text(path).splitlines(), start=1)
    places = ((line, f"{path}:{number}") for number, line in lines)
    return [build(SweepTable, parse_json(line, where), where) for line, where in places]


def _with_bandwidths(table: SweepTable, whole: float | None) -> SweepTable:
    """With bandwidths in place of shares of `whole` GB/s."""
    if whole is None or table.metric != SHARES:
        return table
    points = tuple(replace(p, value=whole * p.value) for p in table.points)
    return replace(table, metric="busbw_GBps", points=points)


def _unusable(table: SweepTable, whole: float | None) -> str | None:
    metrics = ("busbw_GBps", "algbw_GBps", "time_us", *([SHARES] if whole else []))
    if table.metric not in metrics:
        return "a share of a bandwidth that is not stated"
    if any(point.size_bytes is None for point in table.points):
        return "message size not stated"
    return None


def _sweep(
    table: SweepTable,
    cluster: Cluster,
    classes: Mapping[str, EfficiencyTable],
    protocols: tuple[str, ...],
) -> Sweep:
    op = OPS.get(table.op, table.op)
    per_node = cluster.num_accelerators // table.n_nodes
    used, rest = divmod(table.n_accelerators, table.n_nodes)
    if rest or used > per_node:
        raise ParplanError(
            f"{table.n_accelerators} ranks in {table.n_nodes} nodes of {per_node}: not even"
        )
    ranks = [n * per_node + r for n in range(table.n_nodes) for r in range(used)]
    inner, outer = cluster.tiers[0].fabric, cluster.tiers[-1].fabric
    points = [
        (float(p.size_bytes or 0), _seconds(table, op, p))
        for p in table.points
        if table.metric == "time_us" or p.value >= SMALLEST_PRINTED
    ]
    ring = "ring" in table.op or "ring" in table.hardware
    return Sweep(
        id=table.id,
        hardware=table.hardware,
        op=op,
        group=group_of(cluster, ranks),
        inside_class=class_of(inner, classes) if inner else None,
        across_class=class_of(outer, classes) if outer and table.n_nodes > 1 else None,
        algorithms=("ring",) if ring else LIBRARY,
        protocols=protocols,
        host_timed="torch" in table.notes,
        num_bytes=tuple(size for size, _ in points),
        seconds=tuple(seconds for _, seconds in points),
    )


def _cluster(machine: MachineTable, num_nodes: int) -> Cluster:
    cluster = cluster_preset(machine.node if num_nodes == 1 else f"{num_nodes}x{machine.node}")
    if num_nodes == 1 or machine.network_gb_per_s is None:
        return cluster
    tier = cluster.tiers[-1]
    assert tier.fabric is not None
    per_node = cluster.num_accelerators // num_nodes
    factor = machine.network_gb_per_s * 1e9 / per_node / tier.fabric.nominal_bytes_per_s
    link = replace(tier.link, bytes_per_s=tier.link.bytes_per_s * factor)
    return replace(cluster, tiers=(*cluster.tiers[:-1], replace(tier, link=link)))


def _seconds(table: SweepTable, op: str, point: PointTable) -> float:
    if table.metric == "time_us":
        return point.value * 1e-6
    factor = bus_factor(op, table.n_accelerators) if table.metric == "busbw_GBps" else 1.0
    return factor * (point.size_bytes or 0) / (point.value * 1e9)


def split(sweeps: Sequence[Sweep]) -> list[Sweep]:
    """Each sweep with its part, by the rule above; a curve that is split inside becomes two."""
    groups: dict[tuple[str, str, bool], list[Sweep]] = {}
    for sweep in sweeps:
        curve = len(sweep.num_bytes) >= CURVE_SIZES
        groups.setdefault((sweep.link_class, sweep.op, curve), []).append(sweep)
    parts: list[Sweep] = []
    for (_, _, curve), members in groups.items():
        members.sort(key=lambda sweep: hashlib.sha256(sweep.id.encode()).hexdigest())
        for place, sweep in enumerate(members):
            every = [True] * len(sweep.num_bytes)
            if len(members) >= 3:
                parts.append(sweep.only(every, "held out" if place % 3 == 2 else "fit"))
            elif curve:
                even = [index % 2 == 0 for index in range(len(every))]
                parts.append(sweep.only(even, "fit"))
                parts.append(sweep.only([not e for e in even], "interpolated"))
            else:
                parts.append(sweep.only(every, "transfer"))
    return sorted(parts, key=lambda sweep: (sweep.id, sweep.part))
