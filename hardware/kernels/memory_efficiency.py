"""Fitted shares of the memory bandwidth that kernels bound by memory reach.

`memory_efficiency.toml` has a share for each family of operations, provider of its kernels and
direction, a factor for each family of accelerators and provider, and one for each provider where
values have 32 bits. `parplan hardware fit-kernels` writes it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from parplan._strict import build, read_toml
from parplan.errors import ParplanError
from parplan.hardware.kernels.kernel import MemoryBound

CONSTANTS = Path(__file__).parent / "memory_efficiency.toml"

MOST_SHARE = 4.0
"""Of the bandwidth, for a kernel whose operands the cache holds in part."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shares:
    """`[share.FAMILY.PROVIDER]`: of the data sheet's bandwidth, for long kernels."""

    forward: float
    backward: float

    def __post_init__(self) -> None:
        for name in ("forward", "backward"):
            if not 0 < getattr(self, name) <= MOST_SHARE:
                raise ParplanError(
                    f"{name}: expected a share up to {MOST_SHARE}, got {getattr(self, name)}"
                )


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryEfficiency:
    """What keeps kernels bound by memory from the bandwidth of an accelerator."""

    shares: Mapping[str, Shares] = field(hash=False)
    """By family and provider, as in `norm.triton`."""
    factors: Mapping[str, float] = field(hash=False)
    """By provider, over those of an A100."""
    wide: Mapping[str, float] = field(hash=False)
    """By provider, of kernels on values of 32 bits over those on 16: what they compute takes its
    time by the value, not by the byte."""

    def share(self, kernel: MemoryBound) -> float | None:
        """The share of the bandwidth that `kernel` reaches; None: nothing is known of its kind."""
        found = self.shares.get(f"{kernel.family}.{kernel.provider}")
        if found is None:
            return None
        share = found.forward if kernel.direction == "forward" else found.backward
        wide = self.wide.get(kernel.provider, 1.0) if kernel.wide else 1.0
        return share * self.factors.get(kernel.provider, 1.0) * wide


@cache
def memory_efficiency(family: str, path: Path = CONSTANTS) -> MemoryEfficiency | None:
    """The constants of a family of accelerators; None where kernels of none of it were measured.

    Raises `ParplanError` with file and key for a malformed table.
    """
    tables = read_toml(path)
    factors = tables.get("accelerators", {})
    if family not in factors:
        return None
    shares = {
        f"{of}.{provider}": build(Shares, table, f"{path}: share.{of}.{provider}")
        for of, providers in tables.get("share", {}).items()
        for provider, table in providers.items()
    }
    wide = _positive(tables.get("wide", {}), f"{path}: wide")
    own = _positive(factors[family], f"{path}: accelerators.{family}")
    return MemoryEfficiency(shares=shares, factors=own, wide=wide)


def _positive(table: Mapping[str, object], where: str) -> Mapping[str, float]:
    """A factor for each provider."""
    found = {}
    for provider, factor in table.items():
        if isinstance(factor, bool) or not isinstance(factor, int | float) or factor <= 0:
            raise ParplanError(f"{where}.{provider}: expected a positive number")
        found[provider] = float(factor)
    return found
