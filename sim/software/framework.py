"""Software overheads of training frameworks: kernel launches, waits, fixed work per step.

The constants are fitted to published runs whose use for that is allowed
(`parplan validate --fit-frameworks`); `frameworks.toml` says for each table to which.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from parplan._strict import build, read_toml
from parplan.errors import ParplanError, unknown_name

NOT_NEGATIVE = (
    "host_s_per_kernel",
    "host_s_per_exchange",
    "backward_host_share",
    "message_s",
    "step_s",
    "expert_layer_s",
)

LARGER_IS_BETTER = ("hidden_share", "tensor_hidden_share", "overlapped_share")

SLOWED_SHARE = 1 - 1 / 1.189
"""Of the time of a collective, what kernels that run beside it take longer: they are 18.9 % slower
in the mean over A100, H100, MI210 and MI250 (Lee et al. 2025, arXiv:2507.03114, abstract)."""

FRAMEWORKS = Path(__file__).parent / "frameworks.toml"


@dataclass(frozen=True, slots=True, kw_only=True)
class Framework:
    """Constants of one generation of training software."""

    name: str
    host_s_per_kernel: float
    """What the host needs to launch a kernel of the forward; a faster device waits."""
    host_s_per_exchange: float
    """The same for a collective within a layer."""
    backward_host_share: float
    """The same of a kernel of the backward, over that of the forward."""
    message_s: float
    """Added to every forward and backward that gets or sends a message between stages."""
    step_s: float
    """Once per step: data, scaling of the loss, logging."""
    kernel_slowdown: float
    """Time of a kernel within a training step over its time when measured alone: clocks are lower
    and caches are cold."""
    expert_layer_s: float
    """Added to the forward and to the backward of a layer with experts: the host waits to learn
    how many tokens each expert gets."""
    hidden_share: float
    """How much of an exchange of context-parallel ranks that overlaps with kernels costs nothing:
    the rest slows them."""
    tensor_hidden_share: float = 1 - SLOWED_SHARE
    """The same of a tensor-parallel exchange beside the products of a backward."""
    overlapped_share: float
    """The same where a plan asks for overlap in the forward too (`overlap_tensor_parallel`), by
    products that are cut so that their exchange goes along."""
    source: str

    def __post_init__(self) -> None:
        for name in NOT_NEGATIVE:
            if getattr(self, name) < 0:
                raise ParplanError(f"{name}: must not be negative, got {getattr(self, name)}")
        if self.kernel_slowdown <= 0:
            raise ParplanError(f"kernel_slowdown: must be positive, got {self.kernel_slowdown}")
        for name in LARGER_IS_BETTER:
            if not 0 <= getattr(self, name) <= 1:
                raise ParplanError(f"{name}: must be in [0, 1], got {getattr(self, name)}")


NO_OVERHEAD = Framework(
    name="none",
    host_s_per_kernel=0.0,
    host_s_per_exchange=0.0,
    backward_host_share=1.0,
    message_s=0.0,
    step_s=0.0,
    kernel_slowdown=1.0,
    expert_layer_s=0.0,
    hidden_share=1.0,
    tensor_hidden_share=1.0,
    overlapped_share=1.0,
    source="assumed: a host that is never late, and perfect overlap",
)


def framework(name: str, path: Path = FRAMEWORKS) -> Framework:
    """The constants called `name`, or none; raises `ParplanError` that suggests near names."""
    if name == NO_OVERHEAD.name:
        return NO_OVERHEAD
    tables = read_toml(path)
    if name not in tables:
        raise unknown_name("framework", name, [*tables, NO_OVERHEAD.name])
    table = tables[name]
    if not isinstance(table, dict):
        raise ParplanError(f"{path}: {name}: expected a table, got {table!r}")
    return build(Framework, {"name": name, **table}, f"{path}: {name}")


SMALLER_IS_BETTER = (*NOT_NEGATIVE, "kernel_slowdown")

FUSED = "fused"
"""The constants of software with few kernels a layer."""


@cache
def expected_framework(name: str) -> Framework:
    """The constants called `name` for a step of any machine and model: none better than `FUSED`.

    Tables are fitted to different runs, where one constant makes up for another. Software that
    launches each kernel by itself is not faster for it, so what is better in its table than in that
    of fused kernels says nothing about other runs.
    """
    own, best = framework(name), framework(FUSED)
    if own == NO_OVERHEAD:
        return own
    worse: dict[str, Any] = {
        key: max(getattr(own, key), getattr(best, key)) for key in SMALLER_IS_BETTER
    }
    worse |= {key: min(getattr(own, key), getattr(best, key)) for key in LARGER_IS_BETTER}
    return replace(own, **worse)


DEFAULT = "default"
"""The name of the constants of a workload whose software was not named."""

ON_PRESETS, ON_MEASURED = "eager", NO_OVERHEAD.name
"""What these are on a described machine, and on one whose kernels were measured."""

SOFTWARE_INSTEAD = {"eager": "pytorch", "fused": "megatron", NO_OVERHEAD.name: "none"}
"""Software by name that stands for a table of constants, for those who ask for the table."""


@cache
def default_framework() -> Framework:
    """The constants of a workload whose software was not named: those of `ON_PRESETS`."""
    return replace(expected_framework(ON_PRESETS), name=DEFAULT)


def framework_on(chosen: Framework, *, measured: bool) -> Framework:
    """The constants that `chosen` means on a machine.

    `measured`: whether the machine is one whose kernels were measured, which decides the default.
    """
    if chosen != default_framework():
        return chosen
    return expected_framework(ON_MEASURED if measured else ON_PRESETS)


def constants_of(given: Any) -> Framework:
    """The constants that are given; raises `ParplanError` for a name, which software has."""
    if isinstance(given, Framework):
        return given
    raise ParplanError(f"framework: {part_of_software(given, lambda name: f'software={name!r}')}")


def part_of_software(given: object, written: Callable[[str], str]) -> str:
    """What to say to those who name constants instead of software.

    `written`: how software of a name is asked for, as in `--software NAME`.
    """
    if isinstance(given, str) and given in SOFTWARE_INSTEAD:
        return f"is part of the software: {written(SOFTWARE_INSTEAD[given])} for {given}"
    other = ", ".join(f"{new} (for {old})" for old, new in SOFTWARE_INSTEAD.items())
    return f"is part of the software: {written('NAME')}, such as {other}"
