"""Fitted efficiency constants of the kernel time model.

`kernel_efficiency.toml` holds a table for each accelerator that was measured, and says for each
family whose constants its other members take. `parplan hardware fit-kernels` writes it.
"""

from dataclasses import dataclass
from pathlib import Path

from parplan._strict import build, read_toml
from parplan.errors import ParplanError, unknown_name

CONSTANTS = Path(__file__).parent / "kernel_efficiency.toml"


@dataclass(frozen=True, slots=True, kw_only=True)
class GemmEfficiency:
    """Constants of matrix products; their equation: `parplan.hardware.kernels.gemm_times`."""

    tiles: tuple[tuple[int, ...], ...]
    """Rows and columns of the output that one processor may compute at a time, largest first."""
    main_loop: float
    """Rate of the loop over k for short work, over the best measured rate of a product."""
    throttle: float
    """Part of that rate which long work loses: the device gets hot and lowers its clock."""
    throttle_s: float
    """Seconds of work at which half of it is lost."""
    layout_nn: float
    """Rate of the NN layout over that of TN."""
    layout_nt: float
    """Rate of the NT layout over that of TN."""
    small_tile: float
    """Exponent: a tile of a quarter of the largest one's area runs at 0.25 ** small_tile."""
    wave_quantisation: float
    """1: the last wave of tiles takes as long as a full one; 0: tiles are spread evenly."""
    prologue_s: float
    """Seconds that the largest tile takes beside its loop and its output."""
    output_ratio: float
    """Bandwidth at which tiles write their output over that of the memory."""
    cache_ratio: float
    """Bandwidth at which tiles load operands (second-level cache) over that of the memory."""
    memory_share: float
    """Bandwidth of a product that the memory limits, over that of a long copy."""
    fixed_s: float
    """Seconds of every product beside all that."""
    group_s: float
    """Least seconds from the start of one product of a group to that of the next."""

    def __post_init__(self) -> None:
        if not self.tiles or any(len(tile) != 2 or min(tile) < 1 for tile in self.tiles):
            raise ParplanError(f"tiles: expected pairs of positive numbers, got {self.tiles}")
        _check_positive(self, "main_loop", "throttle_s", "layout_nn", "layout_nt")
        _check_positive(self, "output_ratio", "cache_ratio", "memory_share")
        _check_not_negative(self, "small_tile", "prologue_s", "fixed_s", "group_s")
        _check_share(self, "throttle", "wave_quantisation")


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionEfficiency:
    """Constants of flash attention in one direction (`attention_times`)."""

    rows: int
    """Query rows (backward: key rows) of one tile."""
    main_loop: float
    """Rate of the loop over the keys for short work, over the best measured rate of a product."""
    throttle: float
    """Part of that rate which long work loses."""
    throttle_s: float
    """Seconds of work at which half of it is lost."""
    wide_head: float
    """Rate of heads of more than 128 features over that of narrower ones."""
    softmax_features: float
    """Time that the softmax of a score takes, in features of the head."""
    sharpness: float
    """Large: the longest tile and the average load hide each other; 1: they add up."""
    fixed_s: float
    """Seconds beside all that."""

    def __post_init__(self) -> None:
        _check_positive(self, "rows", "main_loop", "throttle_s", "wide_head")
        _check_not_negative(self, "softmax_features", "fixed_s")
        _check_share(self, "throttle")
        if self.sharpness < 1:
            raise ParplanError(f"sharpness: must be at least 1, got {self.sharpness}")


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelEfficiency:
    """Efficiency of the kernels of one accelerator relative to the roofline, with its source."""

    source: str
    gemm: GemmEfficiency
    attention_forward: AttentionEfficiency
    attention_backward: AttentionEfficiency


@dataclass(frozen=True, slots=True, kw_only=True)
class Assumed:
    """`[family.NAME]`: the constants that accelerators of a family take, unless measured."""

    constants: str | None = None
    """A table of constants; none: the plain roofline."""
    source: str


def kernel_efficiency(name: str, family: str, path: Path = CONSTANTS) -> KernelEfficiency | None:
    """The constants of the accelerator `name` of `family`; None: a plain roofline.

    Raises `ParplanError` with file and key for a malformed table.
    """
    tables = read_toml(path)
    fitted, families = tables.get("accelerator", {}), tables.get("family", {})
    if name in fitted:
        return build(KernelEfficiency, fitted[name], f"{path}: accelerator.{name}")
    known = family if family in families else "default"
    if known not in families:
        raise ParplanError(f"{path}: missing table [family.default]")
    assumed = build(Assumed, families[known], f"{path}: family.{known}")
    if assumed.constants is None:
        return None
    if assumed.constants not in fitted:
        raise unknown_name("table of constants", assumed.constants, fitted)
    where = f"{path}: accelerator.{assumed.constants}"
    return build(KernelEfficiency, fitted[assumed.constants], where)


def _check_positive(table: object, *names: str) -> None:
    for name in names:
        if not getattr(table, name) > 0:
            raise ParplanError(f"{name}: must be positive, got {getattr(table, name)}")


def _check_not_negative(table: object, *names: str) -> None:
    for name in names:
        if getattr(table, name) < 0:
            raise ParplanError(f"{name}: must not be negative, got {getattr(table, name)}")


def _check_share(table: object, *names: str) -> None:
    for name in names:
        if not 0 <= getattr(table, name) <= 1:
            raise ParplanError(f"{name}: must be in [0, 1], got {getattr(table, name)}")
