"""Plausibility check of units in hardware files."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial

from parplan.hardware.kernels.accelerator import Accelerator, DenseRates
from parplan.hardware.machines.presets import every_preset
from parplan.hardware.network.cluster import Cluster

MARGIN = 3.0
"""A rate this many times beyond every preset of its kind is looked at."""

CPU = "cpu"
"""The preset whose rates are a CPU's."""

MISTAKES = {1e3: "1000", 8.0: "8 (bits for bytes)", 1e6: "10^6", 1e9: "10^9", 1e12: "10^12"}
"""Factors between units that are mixed up, the likeliest first."""


@dataclass(frozen=True, slots=True)
class _Rate:
    """A rate, and whose it is."""

    key: str
    kind: str
    value: float
    name: str


def unit_warnings(given: Accelerator | Cluster) -> list[str]:
    """A warning for each rate of `given` that lies beyond every preset's by a factor of a unit.

    Each names the key, its value and the nearest preset of the same kind. A CPU's rates are
    compared with those of CPUs: the side beyond which fewer of the rates lie counts.
    """
    rates = list(_rates(given, given.name))
    sides = _preset_rates()
    known = min(sides, key=lambda side: sum(_is_beyond(rate, side) for rate in rates))
    return [warning for rate in rates if (warning := _warning(rate, known))]


@cache
def _preset_rates() -> tuple[list[_Rate], list[_Rate]]:
    """Those of accelerators and of CPUs."""
    cpus: list[_Rate] = []
    others: list[_Rate] = []
    for preset in every_preset():
        of = preset.accelerator if isinstance(preset, Cluster) else preset
        (cpus if of.name == CPU else others).extend(_rates(preset, preset.name))
    return others, cpus


def _rates(given: Accelerator | Cluster, name: str) -> Iterator[_Rate]:
    if isinstance(given, Cluster):
        yield from _rates(given.accelerator, name)
        yield from _link_rates(given, name)
        return
    for dtype in DenseRates.__dataclass_fields__:
        rate = getattr(given.peak_flop_per_s, dtype)
        if rate is not None:
            yield _Rate(f"peak_flop_per_s.{dtype}", f"FLOP/s {dtype}", rate, name)
    yield _Rate("hbm_bytes_per_s", "memory", given.hbm_bytes_per_s, name)


def _link_rates(cluster: Cluster, name: str) -> Iterator[_Rate]:
    for tier in cluster.tiers:
        outside = cluster.num_nodes > 1 and tier is cluster.tiers[-1]
        kind = "between nodes" if outside else "in a node"
        yield _Rate(f"tiers.{tier.name}.bytes_per_s", kind, tier.link.bytes_per_s, name)


def _same_kind(rate: _Rate, known: Sequence[_Rate]) -> list[_Rate]:
    return sorted((other for other in known if other.kind == rate.kind), key=lambda r: r.value)


def _is_beyond(rate: _Rate, known: Sequence[_Rate]) -> bool:
    same = _same_kind(rate, known)
    return bool(same) and not (same[0].value / MARGIN <= rate.value <= same[-1].value * MARGIN)


def _warning(rate: _Rate, known: Sequence[_Rate]) -> str | None:
    if not _is_beyond(rate, known):
        return None
    same = _same_kind(rate, known)
    high = rate.value > same[-1].value
    for factor, words in MISTAKES.items():
        meant = rate.value / factor if high else rate.value * factor
        if same[0].value <= meant <= same[-1].value:
            nearest = min(same, key=partial(_distance, meant))
            return (
                f"{rate.name}: {rate.key}: {rate.value:.4g} looks {words} times too "
                f"{'high' if high else 'low'}; the nearest preset, {nearest.name}, "
                f"has {nearest.value:.4g}"
            )
    return None


def _distance(value: float, other: _Rate) -> float:
    return max(value / other.value, other.value / value)
