"""Reading and writing of `profile.json`, and its match with this machine."""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from parplan._files import check_replaceable, is_file, write_whole
from parplan._strict import build, read_json
from parplan.errors import ParplanError
from parplan.hardware.estimates.profile import (
    Machine,
    MeasuredCollective,
    MeasuredKernel,
    MeasuredLayer,
    MeasuredOptimizer,
    Profile,
    Timing,
)
from parplan.hardware.kernels.kernel import Attention, Gemm, Kernel, MemoryBound

FORMAT = 1

KINDS: dict[type[Kernel], str] = {
    Gemm: "gemm",
    Attention: "attention",
    MemoryBound: "memory_bound",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class _KernelRow:
    """A measured kernel as it is written: under the name of its kind."""

    timing: Timing
    gemm: Gemm | None = None
    attention: Attention | None = None
    memory_bound: MemoryBound | None = None

    def __post_init__(self) -> None:
        _ = self.measured

    @property
    def measured(self) -> MeasuredKernel:
        """The measurement; raises `ParplanError` unless the row has exactly one kernel."""
        found = [k for name in KINDS.values() if (k := getattr(self, name)) is not None]
        if len(found) != 1:
            raise ParplanError(
                f"expected one of {', '.join(KINDS.values())}, got {len(found) or 'none'}"
            )
        return MeasuredKernel(kernel=found[0], timing=self.timing)


@dataclass(frozen=True, slots=True, kw_only=True)
class _ProfileTable:
    """The file."""

    parplan_profile: int
    machine: Machine
    date: str
    kernels: tuple[_KernelRow, ...]
    collectives: tuple[MeasuredCollective, ...]
    layers: tuple[MeasuredLayer, ...]
    optimizer: MeasuredOptimizer | None


def profile_table(profile: Profile) -> dict[str, Any]:
    """The profile as JSON."""
    kernels = [
        {KINDS[type(m.kernel)]: dataclasses.asdict(m.kernel), "timing": _timing(m.timing)}
        for m in profile.kernels
    ]
    return {"parplan_profile": FORMAT, **dataclasses.asdict(profile), "kernels": kernels}


def _timing(timing: Timing) -> dict[str, Any]:
    return dataclasses.asdict(timing)


def write_profile(profile: Profile, path: Path) -> None:
    """Write `profile` as JSON, one measurement a line; raises `ParplanError` if it can't."""
    parts = []
    for key, value in profile_table(profile).items():
        text = json.dumps(value)
        if isinstance(value, list | tuple) and value:
            text = "[\n    " + ",\n    ".join(json.dumps(row) for row in value) + "\n  ]"
        parts.append(f"  {json.dumps(key)}: {text}")
    write_whole(path, ("{\n" + ",\n".join(parts) + "\n}\n").encode())


def check_place(path: Path) -> None:
    """Raise `ParplanError` where a profile may not be written: what is there is none."""
    check_replaceable(path)
    if is_file(path):
        table = read_json(path)
        if not isinstance(table, dict) or "parplan_profile" not in table:
            raise ParplanError(f"{path}: is there already, and is no profile; name another file")


def read_profile(path: Path) -> Profile:
    """The profile of a file.

    Raises `ParplanError` that names the file and the key for anything that is not one.
    """
    table = read_json(path)
    if not isinstance(table, dict) or table.get("parplan_profile") != FORMAT:
        raise ParplanError(f"{path}: not a profile: expected 'parplan_profile': {FORMAT}")
    read = build(_ProfileTable, table, f"{path}: profile")
    kernels = tuple(row.measured for row in read.kernels)
    rest = {f: getattr(read, f) for f in ("machine", "date", "collectives", "layers", "optimizer")}
    try:
        return Profile(kernels=kernels, **rest)
    except ParplanError as error:
        raise ParplanError(f"{path}: profile.{error}") from None


def machine_differences(profiled: Machine, here: Machine) -> list[str]:
    """Each value in which the two differ: `key: profiled value, here value`."""
    return [
        f"{f.name}: {getattr(profiled, f.name)!r}, here {getattr(here, f.name)!r}"
        for f in dataclasses.fields(Machine)
        if getattr(profiled, f.name) != getattr(here, f.name)
    ]


def check_machine(profile: Profile, here: Machine, where: str) -> list[str]:
    """Warnings where the profile's machine is set up differently from this one.

    `where`: the profile's file, which begins each message. Raises `ParplanError` for a profile of
    another device.
    """
    messages = [
        f"{where}: machine.{difference}; measure again with parplan calibrate"
        for difference in machine_differences(profile.machine, here)
    ]
    for message in messages:
        if message.startswith((f"{where}: machine.device:", f"{where}: machine.device_kind:")):
            raise ParplanError(message)
    return messages
