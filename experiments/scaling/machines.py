"""One kind of machine at any size, and what if it were another one."""

import argparse
import re
from dataclasses import dataclass

from parplan.errors import ParplanError, unknown_name
from parplan.experiments.arguments.numbers import factor
from parplan.experiments.landscape.machine import CHANGES, changed
from parplan.hardware.machines.presets import (
    accelerator_names,
    accelerator_preset,
    accelerator_table,
    cluster_names,
    cluster_preset,
    node_table,
)
from parplan.hardware.machines.tables import cluster_of
from parplan.hardware.network.cluster import Cluster

AS_IT_IS = "as it is"


@dataclass(frozen=True, slots=True, kw_only=True)
class ScaledMachine:
    """A number of accelerators of one kind of node, with at most one property changed."""

    node: str
    """A preset of a node."""
    change: str = ""
    """A name of `CHANGES`, or empty."""
    factor: float = 1.0
    label: str = AS_IT_IS

    def sized(self, count: int) -> Cluster:
        """The cluster of `count` accelerators; nodes are full, but for a single one.

        Raises `ParplanError` where nodes cannot be full.
        """
        table = node_table(self.node)
        nodes, rest = divmod(count, table.accelerators)
        if nodes and rest:
            raise ParplanError(
                f"--sizes: {count} accelerators do not fill nodes of {table.accelerators} "
                f"({self.node})"
            )
        device = accelerator_preset(table.accelerator)
        name = f"{count} of {self.node}"
        cluster = cluster_of(name, table, device, max(1, nodes), count)
        if not self.change or (count <= table.accelerators and "network" in self.change):
            # A single node has no network that could be another one.
            return cluster
        return changed(cluster, self.change, self.factor)


def node_named(name: str) -> str:
    """The node that `--cluster` means: of an accelerator, a node, or a number of either.

    Raises `ParplanError` that suggests near names.
    """
    part = re.sub(r"^\d{1,7}x", "", name, flags=re.IGNORECASE)
    for word in (name, part):
        try:
            return accelerator_table(word).node
        except ParplanError:
            pass
        try:
            node_table(word)
        except ParplanError:
            continue
        return word
    if name in cluster_names():
        raise ParplanError(
            f"--cluster {name}: has one size ({cluster_preset(name).num_accelerators}); name its "
            "accelerator or node, as in h100 or dgx-h100"
        )
    raise unknown_name("accelerator or node", name, [*accelerator_names(), *cluster_names()])


def what_if(node: str, text: str) -> ScaledMachine:
    """The machine that `PART=FACTOR` or `accelerator=NAME` makes of those of `node`.

    Raises `ParplanError` for anything else.
    """
    name, equals, value = text.partition("=")
    name = name.strip().replace("-", "_")
    known = [*CHANGES, "accelerator"]
    if not equals:
        raise ParplanError(f"--what-if: expected PART=FACTOR, as in memory=2, got {text!r}")
    if name == "accelerator":
        return ScaledMachine(node=node_named(value), label=value)
    if name not in CHANGES:
        raise unknown_name("part of a machine", name, known)
    try:
        times = factor(value)
    except argparse.ArgumentTypeError as error:
        raise ParplanError(f"--what-if: {name}: {error}") from None
    label = f"{name.replace('_', ' ')} x {times:g}"
    return ScaledMachine(node=node, change=name, factor=times, label=label)
