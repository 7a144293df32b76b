"""Named training software: what it does beside a plan, each switch with its source.

`presets.toml` holds the tables. Another preset is another table there; a new switch is a new field
of `Software` (`habits.py`), or of `Workload` and of `WORKLOAD_SWITCHES`.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from parplan._strict import build, read_toml
from parplan.errors import ParplanError, unknown_name
from parplan.sim.software.framework import default_framework, expected_framework, framework
from parplan.sim.software.habits import Software

PRESETS = Path(__file__).parent / "presets.toml"
MOAI = Path(__file__).parent / "moai.toml"
"""The same for the stack of one platform, whose constants are fitted."""

WORKLOAD_SWITCHES = (
    *("framework", "attention", "fused_norms", "fused_elementwise", "fused_loss", "dropout"),
)
"""Fields of `Workload` that are a matter of software."""

UNSAID = {"attention": "flash", "dropout": False} | dict.fromkeys(
    ("fused_norms", "fused_elementwise", "fused_loss"), True
)
"""What a preset means that says nothing of these fields: their defaults in `Workload`."""

DEFAULT_SOFTWARE = "pytorch"
"""What is expected where the software is not named."""

SOFTWARE_SWITCHES = tuple(field.name for field in dataclasses.fields(Software))


@dataclass(frozen=True, slots=True, kw_only=True)
class Switch:
    """What a preset sets a field to, and where that is known from."""

    value: bool | int | str | float
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    """Training software by name."""

    name: str
    about: str
    switches: Mapping[str, Switch]
    """By field, those of the preset that it is like among them."""

    @property
    def software(self) -> Software:
        """What it does beside the plan."""
        return build(Software, self._values(SOFTWARE_SWITCHES), f"software {self.name}")

    @property
    def workload(self) -> dict[str, Any]:
        """The fields of a workload that it sets, `software` among them."""
        found = {**UNSAID, **self._values(WORKLOAD_SWITCHES), "software": self.software}
        if "framework" in found:
            found["framework"] = expected_framework(found["framework"])
        return found

    def _values(self, names: tuple[str, ...]) -> dict[str, Any]:
        return {name: s.value for name, s in self.switches.items() if name in names}


def preset(name: str, path: Path = PRESETS) -> Preset:
    """The software called `name`; raises `ParplanError` that suggests near names."""
    tables = _tables(path)
    if name not in tables:
        raise unknown_name("software", name, tables)
    return _preset(name, tables, path, ())


@cache
def names(path: Path = PRESETS) -> tuple[str, ...]:
    """The names of all presets."""
    return tuple(_tables(path))


def _tables(path: Path) -> dict[str, Any]:
    tables = dict(read_toml(path))
    return tables | read_toml(MOAI) if path == PRESETS else tables


def workload_fields(name: str) -> dict[str, Any]:
    """The fields of a workload that the software called `name` sets."""
    return _shipped(name).workload


def workload_table(name: str) -> dict[str, Any]:
    """The same as a table of a file has them."""
    fields = workload_fields(name)
    constants = fields.get("framework", default_framework())
    tables = {"framework": constants, "software": fields["software"]}
    return {**fields, **{key: dataclasses.asdict(value) for key, value in tables.items()}}


@cache
def default_fields() -> Mapping[str, Any]:
    """The fields of a workload whose software is not named."""
    return {**workload_fields(DEFAULT_SOFTWARE), "framework": default_framework()}


def habits_like(name: str, **changes: Any) -> Software:
    """What the software called `name` does beside the plan, but for `changes`."""
    return dataclasses.replace(_shipped(name).software, **changes)


def name_of(fields: Mapping[str, Any]) -> str:
    """The name of the software that sets these fields of a workload; "custom" if none does.

    Attention may differ, which `--attention` sets as well, and constants that follow from the
    machine or were fitted.
    """
    alike = [name for name in names() if _differing(name, fields) <= {"attention", "framework"}]
    exact = [name for name in alike if not _differing(name, fields)]
    constants = [name for name in alike if "framework" not in _differing(name, fields)]
    return next(iter([*exact, *constants, *_default_first(alike)]), "custom")


def _differing(name: str, fields: Mapping[str, Any]) -> set[str]:
    return {key for key, value in workload_fields(name).items() if fields[key] != value}


def _default_first(found: list[str]) -> list[str]:
    return sorted(found, key=lambda name: name != DEFAULT_SOFTWARE)


@cache
def _shipped(name: str) -> Preset:
    return preset(name)


def _preset(name: str, tables: Mapping[str, Any], path: Path, seen: tuple[str, ...]) -> Preset:
    where, table = f"{path}: {name}", dict(tables[name])
    about, base = table.pop("about", None), table.pop("like", None)
    if not isinstance(about, str):
        raise ParplanError(f"{where}: about: expected a text, got {about!r}")
    switches: dict[str, Switch] = {}
    if base is not None:
        if base not in tables or base in (*seen, name):
            raise ParplanError(f"{where}: like: expected another table, got {base!r}")
        switches |= _preset(base, tables, path, (*seen, name)).switches
    for key, value in table.items():
        if key not in (*WORKLOAD_SWITCHES, *SOFTWARE_SWITCHES):
            raise unknown_name(f"switch of {where}", key, [*WORKLOAD_SWITCHES, *SOFTWARE_SWITCHES])
        switches[key] = build(Switch, value, f"{where}.{key}")
        if not switches[key].source:
            raise ParplanError(f"{where}.{key}: a switch needs a source")
    found = Preset(name=name, about=about, switches=switches)
    _ = found.software
    if "framework" in switches:
        framework(str(switches["framework"].value))
    return found
