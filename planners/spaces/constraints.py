"""User constraints on a space: fixed values, lists or ranges per dimension."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from parplan._strict import build, read_toml
from parplan.errors import ParplanError, unknown_name
from parplan.planners.spaces.recomputed import recomputed_by
from parplan.sim.plan import ALIASES, Recomputation
from parplan.sim.schedules import CATALOGUE, schedule_kind

ORDERED_BY_SIZE = tuple(
    name for name, kind in CATALOGUE.items() if kind.one_copy and not kind.by_times
)
"""Schedules with one copy of each stage, of an order that never depends on times: those that are
searched unless others are named."""

SIMULATED = tuple(CATALOGUE)
"""Schedules that can be searched: all. One that could be made by times is made for equal ones of
forward, input gradient and weight gradient, so that its order follows from its size alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Range:
    """Whole numbers from `min` to `max`, both included; None: no limit."""

    min: int = 0
    max: int | None = None

    def __post_init__(self) -> None:
        if self.max is not None and self.max < self.min:
            raise ParplanError(f"max: {self.max} is below min {self.min}")

    def __contains__(self, value: object) -> bool:
        if not isinstance(value, int):
            return False
        return value >= self.min and (self.max is None or value <= self.max)

    def __str__(self) -> str:
        if self.max is None:
            return f"at least {self.min}"
        return f"at most {self.max}" if self.min < 2 else f"{self.min} to {self.max}"


Numbers = Range | tuple[int, ...]
ANY = Range()


@dataclass(frozen=True, slots=True, kw_only=True)
class Constraints:
    """Allowed values of each dimension; a dimension that is not named has all possible ones.

    A dimension that has no effect on a plan (a schedule without a pipeline, ZeRO without replicas)
    does not rule the plan out.
    """

    tensor_parallel: Numbers = ANY
    tensor_parallel_across_nodes: bool = False
    """Whether tensor parallelism may span nodes, and have more ranks than there are heads of keys
    and values, which are then copied."""
    num_stages: Numbers = ANY
    data_parallel: Numbers = ANY
    context_parallel: Numbers = (1,)
    """Not searched unless asked for: short sequences gain nothing."""
    expert_parallel: Numbers = ANY
    expert_tensor_parallel: Numbers = ()
    """Tensor-parallel degrees within an expert, beside that of the rest."""
    batch_per_device: Numbers = ANY
    num_micro_batches: Numbers = ANY
    """Of plans with a pipeline."""
    virtual_stages: Numbers = Range(max=4)
    """Of plans with a pipeline."""
    unequal_chunks: bool = False
    """Whether the chunks of a pipeline rank may have unequal numbers of layers."""
    stage_ends: tuple[int, ...] = (0,)
    """As how many layers embedding and head may count where layers are divided over stages: 0, 2
    (first and last stage a layer short), 3 (the last one two layers)."""
    schedule: tuple[str, ...] = ORDERED_BY_SIZE
    """Of plans with a pipeline."""
    recomputation: tuple[str, ...] = get_args(Recomputation)
    """Levels, or sets of operations (`recomputed.RECOMPUTED`)."""
    zero_stage: Numbers = ANY
    """Of plans with replicas."""
    sequence_parallel: tuple[bool, ...] = (False, True)
    """Of plans with tensor parallelism that divides the sequence."""
    recomputed_layers: Numbers = ()
    """Blocks of each stage that are recomputed, where not all are (`Plan.recomputed_layers`)."""
    shard_group: Numbers = ()
    """Ranks that sharded state is spread over, where it is not all replicas."""
    gradient_dtype: tuple[Literal["as computed", "fp32"], ...] = ("as computed",)
    overlap_gradient_reduction: tuple[bool, ...] = (True,)
    overlap_tensor_parallel: tuple[bool, ...] = (False,)
    offload_optimizer: tuple[bool, ...] = (False,)
    offload_activations: tuple[bool, ...] = (False,)
    uneven_stages: bool = False
    """Whether plans whose stages have other numbers of blocks belong to the space as well. They are
    not counted, and only some planners ask for them."""
    uneven_recomputation: bool = False
    """The same of plans whose stages recompute other numbers of blocks."""
    memory_ratio: float = 0.8
    """The share of each device's memory that a plan may use."""

    def __post_init__(self) -> None:
        for name in DIMENSIONS:
            values = getattr(self, name)
            if isinstance(values, tuple) and not values and name not in OPTIONAL:
                raise ParplanError(f"{name}: at least one value is needed, got none")
        stages = () if isinstance(self.zero_stage, Range) else self.zero_stage
        if any(stage not in range(4) for stage in stages):
            raise ParplanError(f"zero_stage: 0 to 3, got {text(stages)}")
        for name in self.recomputation:
            recomputed_by(name)
        if any(ends not in (0, 2, 3) for ends in self.stage_ends):
            raise ParplanError(f"stage_ends: 0, 2 or 3, got {text(self.stage_ends)}")
        for name in self.schedule:
            schedule_kind(name)
        if not 0 < self.memory_ratio <= 1:
            raise ParplanError(
                f"memory_ratio: must be above 0 and at most 1, got {self.memory_ratio}"
            )

    @property
    def has_variants(self) -> bool:
        """Whether plans differ in more than the dimensions that every space has."""
        default = Constraints()
        return any(getattr(self, name) != getattr(default, name) for name in VARIANTS)

    @property
    def is_uneven(self) -> bool:
        """Whether there are plans in the space that are not counted."""
        return self.uneven_stages or self.uneven_recomputation

    def given(self) -> dict[str, Any]:
        """The dimensions that differ from the default, by name."""
        default = Constraints()
        values = {name: getattr(self, name) for name in DIMENSIONS}
        return {n: value for n, value in values.items() if value != getattr(default, n)}

    def without(self, name: str) -> "Constraints":
        """The same with the default for one dimension."""
        return dataclasses.replace(self, **{name: getattr(Constraints(), name)})


OPTIONAL = ("recomputed_layers", "shard_group", "expert_tensor_parallel")
VARIANTS = (
    *("recomputed_layers", "shard_group", "gradient_dtype", "overlap_gradient_reduction"),
    *("overlap_tensor_parallel", "offload_optimizer", "offload_activations"),
)
NOT_DIMENSIONS = (
    *("memory_ratio", "uneven_stages", "uneven_recomputation", "tensor_parallel_across_nodes"),
    "unequal_chunks",
)
DIMENSIONS = tuple(f.name for f in dataclasses.fields(Constraints) if f.name not in NOT_DIMENSIONS)
LISTS = (
    *("schedule", "recomputation", "sequence_parallel", "gradient_dtype"),
    *("overlap_gradient_reduction", "overlap_tensor_parallel"),
    *("offload_optimizer", "offload_activations"),
)
NUMBERS = tuple(name for name in DIMENSIONS if name not in LISTS)


JOB = ("precision", "optimizer", "software")
"""Keys of a file of constraints that say of the job what its options do, one value each."""


def read_job(path: Path) -> dict[str, str]:
    """The values of `JOB` in a file of constraints; raises `ParplanError` for what is no text."""
    found = {key: value for key, value in read_toml(path).items() if key in JOB}
    for key, value in found.items():
        if not isinstance(value, str):
            raise ParplanError(f"{path}.{key}: expected one name, got {value!r}")
    return found


def read_constraints(path: Path) -> Constraints:
    """The constraints of a TOML file: `tensor_parallel = 8`, `[1, 2]` or `{ max = 8 }`.

    What it says of the job (`read_job`) is left out. Raises `ParplanError` with the file and the
    key for anything else.
    """
    table = read_toml(path)
    return constraints_of({k: v for k, v in table.items() if k not in JOB}, str(path))


def constraints_of(table: dict[str, Any], where: str) -> Constraints:
    """The constraints of a table; `where` begins each message."""
    ready: dict[str, Any] = {}
    for key, value in table.items():
        name = ALIASES.get(key, key)
        if name in ready:
            raise ParplanError(f"{where}: {name} is given twice, also as {key}")
        ready[name] = value
    numbers: dict[str, Any] = {
        name: _numbers(ready.pop(name), f"{where}.{name}") for name in NUMBERS if name in ready
    }
    for name in LISTS:
        if name in ready and not isinstance(ready[name], list):
            ready[name] = [ready[name]]
    for key in ready:
        if key not in (*DIMENSIONS, *NOT_DIMENSIONS):
            known = [*DIMENSIONS, *NOT_DIMENSIONS, *ALIASES, *JOB]
            raise ParplanError(f"{where}: {unknown_name('key', str(key), known)}")
    others = build(_Others, ready, where)
    given = {name: getattr(others, name) for name in ready}
    try:
        return Constraints(**numbers, **given)
    except ParplanError as error:
        raise ParplanError(f"{where}: {error}") from None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Others:
    """The keys whose types `build` reads."""

    schedule: tuple[str, ...] = ()
    recomputation: tuple[str, ...] = ()
    sequence_parallel: tuple[bool, ...] = ()
    gradient_dtype: tuple[Literal["as computed", "fp32"], ...] = ()
    overlap_gradient_reduction: tuple[bool, ...] = ()
    overlap_tensor_parallel: tuple[bool, ...] = ()
    offload_optimizer: tuple[bool, ...] = ()
    offload_activations: tuple[bool, ...] = ()
    uneven_stages: bool = False
    uneven_recomputation: bool = False
    tensor_parallel_across_nodes: bool = False
    unequal_chunks: bool = False
    memory_ratio: float = 0.8


def _numbers(value: object, where: str) -> Numbers:
    if isinstance(value, dict):
        return build(Range, value, where)
    values = value if isinstance(value, list) else [value]
    for each in values:
        if isinstance(each, bool) or not isinstance(each, int):
            raise ParplanError(
                f"{where}: expected a whole number, a list of them, or a table with min and max; "
                f"got {value!r}"
            )
    return tuple(values)


def text(values: Any) -> str:
    """The values of a dimension as a message names them."""
    if isinstance(values, Range):
        return str(values)
    return ", ".join(str(v).lower() if isinstance(v, bool) else str(v) for v in values)
