"""A converted machine, and the TOML file that parplan reads it from."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

GIB_PER_GB = 2**30 / 1e9
LAUNCH_US = 4.0
"""Time of a small kernel, where a file has none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineTables:
    """The tables of one cluster."""

    name: str
    accelerator: Mapping[str, Any] | str
    """A table as in accelerators.toml, or the name of a preset."""
    inside: tuple[Mapping[str, Any], ...]
    """Tiers of a node, innermost first."""
    network: Mapping[str, Any]
    per_node: int
    num_nodes: int
    source: str
    notes: tuple[str, ...] = ()
    """What was understood otherwise, or left out: `key: what became of it`."""


def machine_toml(machine: MachineTables) -> str:
    """The TOML text, with the units of all values in their names."""
    chip, node = f"{machine.name}-chip", f"{machine.name}-node"
    parts = [f"# {machine.source}. Bandwidths are per direction, and in 10^9 bytes/s.\n"]
    if isinstance(machine.accelerator, str):
        chip = machine.accelerator
    else:
        table = dict(machine.accelerator)
        sources = table.pop("sources")
        parts.append(_table(f"accelerator.{chip}", {**table, "node": node}))
        parts[-1] += _table(f"accelerator.{chip}.sources", sources)
    title = {"title": f"A node of {machine.name}", "accelerator": chip}
    own = {**title, "accelerators": machine.per_node, "source": machine.source}
    parts.append(_table(f"node.{node}", own))
    for tier in machine.inside:
        parts[-1] += _table(f"node.{node}.inside", tier, array=True)
    parts[-1] += _table(f"node.{node}.network", machine.network, array=True)
    cluster = {"title": machine.name, "node": node, "num_nodes": machine.num_nodes}
    parts.append(_table(f"cluster.{machine.name}", {**cluster, "source": machine.source}))
    return "\n".join(parts)


def _table(name: str, table: Mapping[str, Any], *, array: bool = False) -> str:
    head = f"[[{name}]]" if array else f"[{name}]"
    return "\n".join([head, *(f"{key} = {_value(value)}" for key, value in table.items())]) + "\n"


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{key} = {_value(item)}" for key, item in value.items()) + " }"
    if isinstance(value, float):
        return f"{value:.7g}"
    return json.dumps(value, ensure_ascii=False)


def plain_name(text: str) -> str:
    """A name that needs no quotes in TOML."""
    return (
        "".join(c if c.isalnum() and c.isascii() else "-" for c in text.lower()).strip("-")
        or "machine"
    )
