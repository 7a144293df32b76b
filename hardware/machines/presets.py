"""Presets of accelerators and clusters, and clusters from user files.

A cluster is named by a preset (`4xLarge.2048GB`, `selene`), as so many nodes (`4xdgx-h100`), as so
many accelerators in their usual nodes (`64xh100`), or as one node (`dgx-a100`). Names ignore case.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from parplan._strict import T, build, read_toml
from parplan.errors import ParplanError, unknown_name
from parplan.hardware.kernels.accelerator import Accelerator
from parplan.hardware.machines.tables import (
    AcceleratorTable,
    ClusterTable,
    NodeTable,
    accelerator_of,
    cluster_of,
)
from parplan.hardware.network.cluster import Cluster

ACCELERATORS = Path(__file__).parent / "accelerators.toml"
CLUSTERS = Path(__file__).parent / "clusters.toml"

KINDS = ("accelerator", "node", "cluster")


@dataclass(slots=True, kw_only=True)
class _Catalogue:
    """The raw tables of one or several files, each with where it was read."""

    accelerator: dict[str, tuple[object, str]] = field(default_factory=dict)
    node: dict[str, tuple[object, str]] = field(default_factory=dict)
    cluster: dict[str, tuple[object, str]] = field(default_factory=dict)

    def add(self, kind: str, tables: Mapping[str, Any], path: Path) -> None:
        known = getattr(self, kind)
        for name, table in tables.items():
            known[name] = (table, f"{path}: {name}")

    def find(self, kind: str, name: str) -> str | None:
        """The name as it is spelt in the files, also by alias."""
        wanted = name.casefold()
        for known in getattr(self, kind):
            if wanted in (known.casefold(), *(a.casefold() for a in self.aliases(kind, known))):
                return str(known)
        return None

    def names(self, kind: str) -> list[str]:
        """Every name and alias, for suggestions."""
        tables = getattr(self, kind)
        return [*tables, *(alias for name in tables for alias in self.aliases(kind, name))]

    def aliases(self, kind: str, name: str) -> list[str]:
        """The other names of one that is known."""
        table, _ = getattr(self, kind)[name]
        return [str(a) for a in table.get("aliases", [])] if isinstance(table, Mapping) else []

    def build(self, kind: str, cls: type[T], name: str) -> T:
        table, where = getattr(self, kind)[name]
        return build(cls, table, where)


def _presets() -> _Catalogue:
    catalogue = _Catalogue()
    catalogue.add("accelerator", read_toml(ACCELERATORS), ACCELERATORS)
    tables = read_toml(CLUSTERS)
    for kind in ("node", "cluster"):
        catalogue.add(kind, tables[kind], CLUSTERS)
    return catalogue


def accelerator_names() -> list[str]:
    """The accelerators that have a preset."""
    return sorted(_presets().accelerator)


def cluster_names() -> list[str]:
    """The clusters and nodes that have a preset."""
    presets = _presets()
    return sorted([*presets.cluster, *presets.node])


def preset_aliases() -> dict[str, list[str]]:
    """The other names of every accelerator, node and cluster."""
    presets = _presets()
    return {name: presets.aliases(k, name) for k in KINDS for name in getattr(presets, k)}


def accelerator_preset(name: str) -> Accelerator:
    """The accelerator `name`; raises `ParplanError` that suggests near names."""
    return _accelerator(_presets(), name)


def accelerator_table(name: str) -> AcceleratorTable:
    """The preset of an accelerator as it is written, with its sources.

    Raises `ParplanError` that suggests near names.
    """
    catalogue = _presets()
    known = catalogue.find("accelerator", name)
    if known is None:
        raise unknown_name("accelerator", name, catalogue.names("accelerator"))
    return catalogue.build("accelerator", AcceleratorTable, known)


def cluster_preset(name: str) -> Cluster:
    """The cluster `name` (see above); raises `ParplanError` that suggests near names."""
    return _named(_presets(), name)


def every_preset() -> list[Accelerator | Cluster]:
    """All accelerators, nodes and clusters that have a preset."""
    presets = _presets()
    clusters = [_named(presets, name) for name in (*presets.cluster, *presets.node)]
    return [*(_accelerator(presets, name) for name in presets.accelerator), *clusters]


def read_cluster(path: Path) -> Cluster:
    """The one `[cluster.NAME]` of a TOML file.

    Its node, and the node's accelerator, are presets or tables `[node.NAME]` and
    `[accelerator.NAME]` of the same file. Raises `ParplanError` with file and key for a malformed
    table.
    """
    catalogue = _presets()
    tables = read_toml(path)
    for kind, group in tables.items():
        if kind not in KINDS:
            raise ParplanError(f"{path}: unknown table {kind!r}; known: {', '.join(KINDS)}")
        if not isinstance(group, Mapping):
            raise ParplanError(f"{path}: {kind}: expected tables, got {group!r}")
        catalogue.add(kind, group, path)
    own = list(tables.get("cluster", {}))
    if len(own) != 1:
        raise ParplanError(f"{path}: expected one [cluster.NAME], got {len(own)}")
    return _from_table(catalogue, own[0])


def _accelerator(catalogue: _Catalogue, name: str) -> Accelerator:
    known = catalogue.find("accelerator", name)
    if known is None:
        raise unknown_name("accelerator", name, catalogue.names("accelerator"))
    return accelerator_of(known, catalogue.build("accelerator", AcceleratorTable, known))


def _named(catalogue: _Catalogue, name: str) -> Cluster:
    known = catalogue.find("cluster", name)
    if known is not None:
        return _from_table(catalogue, known)
    match = re.fullmatch(r"([0-9]{1,7})x(.+)", name, flags=re.IGNORECASE)
    count, part = (int(match[1]), match[2]) if match else (1, name)
    if count < 1:
        raise ParplanError(f"cluster {name!r}: needs at least one accelerator")
    node = catalogue.find("node", part)
    if node is not None:
        return _of_nodes(catalogue, name, node, count)
    accelerator = catalogue.find("accelerator", part)
    if accelerator is not None and match:
        return _of_accelerators(catalogue, name, accelerator, count)
    digits = re.match("[0-9]{1,7}", name)
    raise unknown_name("cluster", name, _suggestions(catalogue, digits[0] if digits else "8"))


def _suggestions(catalogue: _Catalogue, count: str) -> Iterator[str]:
    yield from catalogue.cluster
    yield from catalogue.names("node")
    yield from (f"{count}x{name}" for name in catalogue.names("accelerator"))


def _of_nodes(catalogue: _Catalogue, name: str, node: str, count: int) -> Cluster:
    table = catalogue.build("node", NodeTable, node)
    accelerator = _accelerator(catalogue, table.accelerator)
    return cluster_of(name, table, accelerator, count, count * table.accelerators)


def _of_accelerators(catalogue: _Catalogue, name: str, accelerator: str, count: int) -> Cluster:
    node = catalogue.build("accelerator", AcceleratorTable, accelerator).node
    table = catalogue.build("node", NodeTable, node)
    nodes = -(-count // table.accelerators)
    return cluster_of(name, table, _accelerator(catalogue, accelerator), nodes, count)


def _from_table(catalogue: _Catalogue, name: str) -> Cluster:
    table = catalogue.build("cluster", ClusterTable, name)
    known = catalogue.find("node", table.node)
    if known is None:
        raise unknown_name("node", table.node, catalogue.names("node"))
    node = catalogue.build("node", NodeTable, known)
    devices = table.accelerators_used or table.num_nodes * node.accelerators
    make = partial(cluster_of, name, node, _accelerator(catalogue, node.accelerator))
    return make(table.num_nodes, devices)


def node_table(name: str) -> NodeTable:
    """The preset of a node as it is written; raises `ParplanError` that suggests near names."""
    catalogue = _presets()
    known = catalogue.find("node", name)
    if known is None:
        raise unknown_name("node", name, catalogue.names("node"))
    return catalogue.build("node", NodeTable, known)
