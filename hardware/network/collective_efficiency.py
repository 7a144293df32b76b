"""Fitted efficiency constants of collectives per class of fabric.

`collective_efficiency.toml` holds a table per class, fitted to published measurements by
`parplan hardware fit-collectives`. Constants are relative to the tier's own latency and bandwidth,
so that values measured on a machine keep their meaning. A fabric takes the class that it names, or
else the class that lists its kind and whose bandwidth is nearest to its own. Kinds that no class
lists take the defaults below: plain latency and bandwidth, no launch time.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import log
from pathlib import Path

from parplan._strict import build, read_toml
from parplan.errors import ParplanError, unknown_name
from parplan.hardware.network.fabric import FABRICS, Fabric

EFFICIENCIES = Path(__file__).parent / "collective_efficiency.toml"


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectiveEfficiency:
    """Efficiency of collectives on one class of links. Shares are of the tier's bandwidth.

    A message of x bytes per rank reaches bandwidth_share / (1 + ramp_bytes / x) ^ ramp_power.
    """

    launch_us: float = 0.0
    """Once per collective."""
    step_latencies: float = 1.0
    """What a step of the bandwidth protocol costs, in latencies of the tier."""
    bandwidth_share: float = 1.0
    ramp_bytes: float = 0.0
    ramp_power: float = 1.0
    low_latency_step_latencies: float | None = None
    """The same of the low-latency protocol; None: there is none."""
    low_latency_share: float = 1.0
    """Its bandwidth, as a share of that of the other protocol at its best; it has no ramp."""
    switch_share: float | None = None
    """What collectives inside the switch reach; None: it cannot compute."""
    all_to_all_share: float = 1.0
    """What sending to all at once reaches, as a share of `bandwidth_share`."""

    def __post_init__(self) -> None:
        for name in self.__dataclass_fields__:
            value = getattr(self, name)
            if value is not None and value < 0:
                raise ParplanError(f"{name}: must not be negative, got {value}")
        for name in ("bandwidth_share", "low_latency_share", "switch_share", "all_to_all_share"):
            if getattr(self, name) == 0:
                raise ParplanError(f"{name}: must be positive")


PLAIN = CollectiveEfficiency()
"""Latency and bandwidth alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EfficiencyTable:
    """`[CLASS]` of collective_efficiency.toml."""

    fabrics: tuple[str, ...]
    gb_per_s_per_direction: float
    """Of the data sheet, per accelerator: the machines that the class was fitted on."""
    source: str
    constants: CollectiveEfficiency

    def __post_init__(self) -> None:
        for kind in self.fabrics:
            if kind not in FABRICS:
                raise ParplanError(f"fabrics: {kind!r} is not one of {', '.join(FABRICS)}")
        if self.gb_per_s_per_direction <= 0:
            raise ParplanError("gb_per_s_per_direction: must be positive")


def read_efficiencies(path: Path = EFFICIENCIES) -> dict[str, EfficiencyTable]:
    """The classes of a file; raises `ParplanError` with file and key for a malformed one."""
    tables = read_toml(path)
    return {
        name: build(EfficiencyTable, table, f"{path}: {name}") for name, table in tables.items()
    }


def class_of(fabric: Fabric, classes: Mapping[str, EfficiencyTable]) -> str | None:
    """The class that holds for `fabric`, if any; raises `ParplanError` for an unknown one."""
    if fabric.efficiency_class is not None:
        if fabric.efficiency_class not in classes:
            raise unknown_name("efficiency_class", fabric.efficiency_class, classes)
        return fabric.efficiency_class
    listed = [name for name, table in classes.items() if fabric.kind in table.fabrics]

    def distance(name: str) -> float:
        return abs(log(classes[name].gb_per_s_per_direction * 1e9 / fabric.nominal_bytes_per_s))

    return min(listed, key=distance, default=None)


def efficiency_of(fabric: Fabric, classes: Mapping[str, EfficiencyTable]) -> CollectiveEfficiency:
    """The constants that hold for `fabric`; raises `ParplanError` if it names an unknown class."""
    name = class_of(fabric, classes)
    return PLAIN if name is None else classes[name].constants
