"""The fields that a landscape varies, with their values."""

import argparse
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from parplan._strict import parse_json
from parplan.errors import ParplanError, short, unknown_name
from parplan.experiments.arguments.numbers import factor, whole
from parplan.experiments.landscape.machine import CHANGES, changed
from parplan.hardware.network.cluster import Cluster
from parplan.planners.spaces.constraints import (
    DIMENSIONS,
    NUMBERS,
    SIMULATED,
    VARIANTS,
    Constraints,
)
from parplan.planners.spaces.make import make_space
from parplan.sim.plan import Plan, full_name
from parplan.sim.workload import Workload

Kind = Literal["plan", "workload", "machine"]

WORKLOAD = ("seq_len", "global_batch")
PLAN = tuple(f.name for f in dataclasses.fields(Plan) if f.name not in ("stage_layers",))
FACTORS = (0.25, 0.5, 1.0, 2.0, 4.0)
"""Of a part of the machine, where no values are given."""

LABELS = {
    "num_stages": "pipeline stages",
    "tensor_parallel": "tensor-parallel degree",
    "context_parallel": "context-parallel degree",
    "data_parallel": "data-parallel degree",
    "expert_parallel": "expert-parallel degree",
    "batch_per_device": "micro-batch size [sequences]",
    "num_micro_batches": "micro-batches of a pipeline",
    "virtual_stages": "stages of each rank",
    "zero_stage": "ZeRO stage",
    "seq_len": "sequence length [tokens]",
    "global_batch": "global batch [sequences]",
    "network_bandwidth": "bandwidth between nodes [times the preset's]",
    "network_latency": "latency between nodes [times the preset's]",
    "node_bandwidth": "bandwidth within a node [times the preset's]",
    "memory": "memory of an accelerator [times the preset's]",
    "memory_bandwidth": "memory bandwidth [times the preset's]",
    "compute": "peak rates [times the preset's]",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """One field with the values that it takes."""

    name: str
    kind: Kind
    values: tuple[Any, ...]

    @property
    def label(self) -> str:
        """For a figure, with the unit."""
        return LABELS.get(self.name, self.name.replace("_", " "))

    def text(self, value: Any) -> str:
        """A value as a tick names it."""
        if isinstance(value, bool):
            return "yes" if value else "no"
        return f"{value:g}" if isinstance(value, float) else str(value)


def known_fields() -> list[str]:
    """Every field that can be varied."""
    return list(dict.fromkeys((*DIMENSIONS, *PLAN, *WORKLOAD, *CHANGES)))


def axis(text: str, workload: Workload, cluster: Cluster, base: Constraints) -> Axis:
    """The axis that `FIELD` or `FIELD=VALUE,VALUE` says.

    Without values: all that the space of `workload` on `cluster` under `base` has, or factors.
    Raises `ParplanError` for an unknown field or value, and where values are needed.
    """
    name, equals, rest = text.partition("=")
    name = full_name(name.strip().replace("-", "_"))
    if name not in known_fields():
        raise unknown_name("field", name, known_fields())
    kind: Kind = "machine" if name in CHANGES else "workload" if name in WORKLOAD else "plan"
    if equals:
        words = [word.strip() for word in rest.split(",")]
        values: Sequence[Any] = [_value(name, kind, word) for word in words]
        if len(set(values)) < len(values):
            raise ParplanError(f"{name}: a value is there twice: {rest}")
    else:
        values = _usual(name, kind, workload, cluster, base)
    if kind == "machine":
        changed(cluster, name, values[0])  # So that what cannot be varied is found at once.
    return Axis(name=name, kind=kind, values=tuple(values))


def _value(name: str, kind: Kind, word: str) -> Any:
    if kind == "machine":
        return _factor(name, word)
    if kind == "workload":
        return _whole(name, word, 1)
    if name == "schedule":
        if word not in SIMULATED:
            raise unknown_name("schedule", word, SIMULATED)
        return word
    if name in NUMBERS:
        return _whole(name, word, 0 if name == "zero_stage" else 1)
    try:
        value = parse_json(word.lower(), name)
    except ParplanError:
        value = word
    try:
        # A plan says which values its fields may have; that they go together is said by cells.
        Plan.from_json(Plan().to_json() | {name: value}, "")
    except ParplanError as error:
        if "needs" not in str(error) and "divide" not in str(error):
            raise ParplanError(str(error).removeprefix(".")) from None
    return value


def _factor(name: str, word: str) -> float:
    try:
        return factor(word)
    except argparse.ArgumentTypeError as error:
        raise ParplanError(f"{name}: {error}") from None


def _whole(name: str, word: str, least: int) -> int:
    try:
        value = whole(word)
    except argparse.ArgumentTypeError:
        raise ParplanError(f"{name}: expected a whole number, got {short(word)}") from None
    if value < least:
        raise ParplanError(f"{name}: at least {least}, got {word}")
    return value


def _usual(
    name: str, kind: Kind, workload: Workload, cluster: Cluster, base: Constraints
) -> Sequence[Any]:
    if kind == "machine":
        return FACTORS
    if kind == "workload":
        own = getattr(workload, name)
        return [int(own * f) for f in (0.25, 0.5, 1, 2, 4) if own * f == int(own * f)]
    if name not in DIMENSIONS or name in VARIANTS:
        if isinstance(getattr(Plan(), name), bool):
            return [False, True]
        raise ParplanError(f"{name}: needs its values, as in {name}=1,2")
    space = make_space(workload, cluster, without(base, (name,)))
    if name in space.dimensions:
        return list(space.dimensions[name])
    if name in ("schedule", "virtual_stages"):
        place = name == "virtual_stages"
        return list(dict.fromkeys(value[place] for value in space.dimensions["ordering"]))
    return sorted({getattr(plan, name) for plan in space})


def without(base: Constraints, names: Sequence[str]) -> Constraints:
    """`base` that leaves these dimensions free, and what they need."""
    for name in names:
        if name in DIMENSIONS:
            base = base.without(name)
    for name, other in (("virtual_stages", "schedule"), ("schedule", "virtual_stages")):
        if name in names and other not in names:
            base = base.without(other)
    if "context_parallel" in names:
        devices = tuple(2**i for i in range(11))
        base = dataclasses.replace(base, context_parallel=devices)
    return base
