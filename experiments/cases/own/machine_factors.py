"""The result of a fit to own runs: factors of a machine and its software, in one file.

`[own]` has the constants of software as `sim/software/frameworks.toml` has them, and as `like` the
named software that it is in all else; `[machine.own]` has the factors of the machine that go with
it. `parplan validate --fit` writes such a file, `--software FILE.toml:own` uses it.
"""

import dataclasses
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from parplan._strict import build, read_toml
from parplan.errors import ParplanError, unknown_name
from parplan.hardware.collectives.group import is_network
from parplan.hardware.network.cluster import Cluster
from parplan.sim.software.framework import Framework, default_framework
from parplan.sim.software.presets import DEFAULT_SOFTWARE, workload_fields

MACHINE = "machine"
"""The table that holds the factors; no software can have that name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineFactors:
    """Measured speeds of a machine relative to its preset."""

    products_factor: float = 1.0
    """Of the share of the peak rate that large matrix products reach."""
    network_factor: float = 1.0
    """Of the bandwidth between nodes."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            if getattr(self, field.name) <= 0:
                raise ParplanError(f"{field.name}: must be positive, got {self}")


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineSetting:
    """Constants of the software and factors of the machine, which are fitted together."""

    framework: Framework
    machine: MachineFactors = MachineFactors()
    like: str = DEFAULT_SOFTWARE
    """The named software that it is in all else."""

    @property
    def fields(self) -> dict[str, Any]:
        """The fields of a workload that the software sets."""
        return {**workload_fields(self.like), "framework": self.framework}


def with_factors(cluster: Cluster, factors: MachineFactors) -> Cluster:
    """`cluster` as it is with `factors`; a share of the peak is 1 at most.

    Kernels that were measured stay as they were measured.
    """
    if factors == MachineFactors():
        return cluster
    device = cluster.accelerator
    share = min(1.0, device.gemm_efficiency * factors.products_factor)
    tiers = tuple(
        replace(
            tier,
            link=replace(tier.link, bytes_per_s=tier.link.bytes_per_s * factors.network_factor),
        )
        if is_network(cluster, tier)
        else tier
        for tier in cluster.tiers
    )
    return replace(cluster, accelerator=replace(device, gemm_efficiency=share), tiers=tiers)


def setting_named(text: str) -> MachineSetting:
    """The named software `text`, or that of `FILE.toml:NAME` with the factors beside it.

    Raises `ParplanError` with file and key for a malformed file, or an unknown name.
    """
    file, _, name = text.rpartition(":")
    if not file.endswith(".toml"):
        if text.endswith(".toml"):
            raise ParplanError(f"--software {text}: expected {text}:NAME, with one of its tables")
        constants = workload_fields(text).get("framework", default_framework())
        return MachineSetting(framework=constants, like=text)
    path = Path(file)
    tables = read_toml(path)
    machines = tables.pop(MACHINE, {})
    if name == MACHINE:
        raise ParplanError(f"{path}: [{MACHINE}] holds factors of machines; it is no software")
    if not isinstance(machines, dict):
        raise ParplanError(f"{path}: {MACHINE}: expected a table, got {machines!r}")
    machine = build(MachineFactors, machines.get(name, {}), f"{path}: {MACHINE}.{name}")
    if name not in tables:
        raise unknown_name(f"software of {path}", name, tables)
    if not isinstance(tables[name], dict):
        raise ParplanError(f"{path}: {name}: expected a table, got {tables[name]!r}")
    own = {"like": DEFAULT_SOFTWARE, **tables[name]}
    like = own.pop("like")
    _ = workload_fields(like)
    return MachineSetting(
        framework=build(Framework, {"name": name, **own}, f"{path}: {name}"),
        machine=machine,
        like=like,
    )


def setting_toml(setting: MachineSetting, comment: str) -> str:
    """The text of such a file; `comment` is its first line."""
    table = dataclasses.asdict(setting.framework)
    name, source = table.pop("name"), table.pop("source")
    lines = [f"# {comment}", "", f"[{name}]", f'like = "{setting.like}"']
    lines += [f"{key} = {value:.6g}" for key, value in table.items()]
    lines += [f'source = "{source}"', "", f"[{MACHINE}.{name}]"]
    factors = dataclasses.asdict(setting.machine)
    lines += [f"{key} = {value:.6g}" for key, value in factors.items()]
    return "\n".join(lines) + "\n"
