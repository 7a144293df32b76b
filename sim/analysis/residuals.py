"""Error quantiles of predictions of published runs (`residuals.toml`).

`parplan validate --write-residuals` writes the table. It only reports past accuracy: no prediction
depends on it, and nothing is fitted to it.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from parplan._strict import build, read_toml
from parplan.errors import ParplanError
from parplan.sim.plan import Plan

RESIDUALS = Path(__file__).parent / "residuals.toml"

ANY = "any"

Pool = Literal["reported", "calibration"]
"""reported: runs that are held out, without the sources of which others were fitted to;
calibration: runs that constants may be fitted to."""

Setup = Literal["ZeRO-3", "pipeline", "neither", "any"]

FAMILIES = {
    "Volta": ("v100",),
    "Ampere": ("a100", "a10g", "a800", "a40", "rtx-a6000", "rtx-3090"),
    "Hopper": ("h100", "h200", "h800", "h20", "gh200"),
    "Blackwell": ("b200", "b300", "gb200", "gb300"),
    "Ada": ("l4", "l20", "l40", "l40s", "rtx-4090"),
    "CDNA": ("mi210", "mi250", "mi250x", "mi300x", "mi325x", "mi355x"),
    "Gaudi": ("gaudi2", "gaudi3"),
    "TPU": ("tpu",),
}
"""Accelerators by architecture, by the first word or words of their names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ratios:
    """Measured over predicted step times of like runs: quantiles."""

    pool: Pool
    family: str
    setup: Setup
    runs: int
    sources: int
    """Publications that they are from."""
    low: float
    """Quantile of 10 %."""
    median: float
    high: float
    """Quantile of 90 %."""

    def __post_init__(self) -> None:
        if not 0 < self.low <= self.median <= self.high:
            raise ParplanError(
                f"low, median, high: must be positive and ascending, got {self.low}, "
                f"{self.median}, {self.high}"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Pairs:
    """Errors of the ratio of two step times within sweeps: one model, machine and batch."""

    pool: Pool
    family: str
    sweeps: int
    pairs: int
    apart: float
    """Quantile of 80 % of the ratio of predicted ratios to measured ones, whichever is larger."""

    def __post_init__(self) -> None:
        if self.apart < 1:
            raise ParplanError(f"apart: must be at least 1, got {self.apart}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Residuals:
    """The table of `residuals.toml`."""

    ratios: tuple[Ratios, ...] = ()
    pairs: tuple[Pairs, ...] = ()


def read_residuals(path: Path = RESIDUALS) -> Residuals:
    """The table in `path`; raises `ParplanError` naming the file and the key."""
    return build(Residuals, read_toml(path), str(path))


def setup_of(plan: Plan) -> Setup:
    """The kind of a plan. A pipeline of sharded stages counts as sharded."""
    if plan.zero_stage == 3:
        return "ZeRO-3"
    return "pipeline" if plan.num_stages > 1 else "neither"


def family_of(accelerator: str) -> str:
    """The architecture of the accelerator with that name; `other` where it is not known."""
    for family, names in FAMILIES.items():
        if any(accelerator == name or accelerator.startswith(f"{name}-") for name in names):
            return family
    return "other"


def setups() -> tuple[Setup, ...]:
    """All kinds of setups."""
    return get_args(Setup)
