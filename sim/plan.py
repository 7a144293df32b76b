"""Parallel plans: degrees, micro-batches, schedule, recomputation, sharding."""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal

from parplan._checked import checked
from parplan._strict import build
from parplan.errors import ParplanError, short
from parplan.sim.workload import Workload

Recomputation = Literal["none", "selective", "full"]

POSITIVE = (
    "num_stages",
    "num_micro_batches",
    "batch_per_device",
    "data_parallel",
    "tensor_parallel",
    "context_parallel",
    "expert_parallel",
    "virtual_stages",
)


if TYPE_CHECKING:
    from parplan._checked import Given

ZERO_FIELDS = ("distribute_param", "distribute_gradient", "distribute_low_prec_param")


def zero_fields(stage: int) -> dict[str, bool]:
    """The three distribute fields of a ZeRO stage (0 to 3)."""
    return {name: stage > i for i, name in enumerate(ZERO_FIELDS)}


def _of_zero_stage(stage: object) -> dict[str, bool]:
    if not isinstance(stage, int) or isinstance(stage, bool) or stage not in range(4):
        raise ParplanError(f"zero_stage: expected 0, 1, 2 or 3, got {short(stage)}")
    return zero_fields(stage)


ALIASES = {
    "tp": "tensor_parallel",
    "pp": "num_stages",
    "dp": "data_parallel",
    "cp": "context_parallel",
    "ep": "expert_parallel",
    "etp": "expert_tensor_parallel",
    "mbs": "batch_per_device",
    "vpp": "virtual_stages",
}
"""Short names of fields, wherever users give them."""


def full_name(name: str) -> str:
    """The field that a name or a short name means."""
    return ALIASES.get(name, name)


def _of_alias(name: str) -> Callable[[object], dict[str, object]]:
    return lambda value: {name: value}


@checked(
    expand={
        "zero_stage": _of_zero_stage,
        **{alias: _of_alias(name) for alias, name in ALIASES.items()},
    }
)
@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The layout of one training step. Field names that Advanced Parallelization has are its.

    `zero_stage=3` may be given for the three distribute fields. Raises `ParplanError` for a field
    that does not exist, and for a value that is not allowed.
    """

    num_stages: int = 1
    """Pipeline-parallel degree."""
    num_micro_batches: int = 1
    """Micro-batches that each pipeline handles in a step."""
    batch_per_device: int = 1
    """Sequences in one micro-batch."""
    data_parallel: int = 1
    tensor_parallel: int = 1
    sequence_parallel: bool = False
    """Splits the activations between tensor-parallel regions along the sequence (Korthikanti)."""
    context_parallel: int = 1
    """Ranks that each have an equal part of every sequence."""
    expert_parallel: int = 1
    """Data- and context-parallel ranks that the experts of a layer are spread over."""
    expert_tensor_parallel: int | None = None
    """Tensor-parallel degree within an expert; None: that of the rest."""
    recomputation: Recomputation = "none"
    """What is computed again in the backward. Selective: `recomputed_ops`; full: whole blocks."""
    recomputed_ops: tuple[str, ...] = ("attention",)
    """Operations of a block (`parplan.sim.layers`) that selective recomputation means."""
    recomputed_layers: int | None = None
    """Blocks of every stage that are recomputed, the first ones; None: all of them. Every n-th
    block of L costs the same as the first L / n: equal blocks of a stage are interchangeable."""
    recomputed_of_stages: tuple[int, ...] | None = None
    """The same for each stage; None: `recomputed_layers` of every one."""
    distribute_param: bool = False
    """Shards fp32 master parameters and optimizer state over data-parallel ranks (ZeRO-1)."""
    distribute_gradient: bool = False
    """Shards gradients as well (ZeRO-2)."""
    distribute_low_prec_param: bool = False
    """Shards the working copy of the parameters as well, gathered at use (ZeRO-3)."""
    shard_group: int | None = None
    """Data-parallel ranks that parameters and optimizer state are sharded over (HSDP), of which
    each group has all; None: all of them."""
    gradient_dtype: Literal["as computed", "fp32"] = "as computed"
    """What gradients are added up and reduced in."""
    overlap_gradient_reduction: bool = True
    """Whether gradients are reduced beside the backward, or after it."""
    overlap_parameter_gather: bool = False
    """Whether sharded parameters are gathered beside the next forward (ZeRO-1 and -2)."""
    overlap_tensor_parallel: bool = False
    """Whether exchanges of tensor-parallel regions run beside their matrix products."""
    offload_optimizer: bool = False
    """Whether optimizer state and fp32 masters lie in the host's memory, which takes the step."""
    offload_activations: bool = False
    """Whether what blocks keep for their backward lies in the host's memory in between."""
    schedule: str = "1f1b"
    virtual_stages: int = 1
    """Model chunks on each pipeline rank."""
    stage_layers: tuple[int, ...] | None = None
    """Blocks on each of the num_stages x virtual_stages stages; None: as even as possible."""

    def __post_init__(self) -> None:
        for name in POSITIVE:
            if getattr(self, name) < 1:
                raise ParplanError(f"{name}: must be at least 1, got {getattr(self, name)}")
        if self.distribute_gradient and not self.distribute_param:
            raise ParplanError("distribute_gradient: needs distribute_param")
        if self.distribute_low_prec_param and not self.distribute_gradient:
            raise ParplanError("distribute_low_prec_param: needs distribute_gradient")
        if self.shard_group is not None and (
            self.shard_group < 1 or self.data_parallel * self.context_parallel % self.shard_group
        ):
            raise ParplanError(
                f"shard_group: {self.shard_group} does not divide data_parallel "
                f"{self.data_parallel} x context_parallel {self.context_parallel}"
            )
        if self.recomputed_layers is not None and self.recomputed_layers < 0:
            raise ParplanError(
                f"recomputed_layers: must not be negative, got {self.recomputed_layers}"
            )
        if self.recomputed_of_stages is not None:
            self._check_recomputed(self.recomputed_of_stages)
        if self.stage_layers is not None:
            if len(self.stage_layers) != self.total_stages:
                raise ParplanError(
                    f"stage_layers: {len(self.stage_layers)} entries for {self.total_stages} stages"
                )
            if min(self.stage_layers) < 0:
                raise ParplanError(f"stage_layers: must not be negative: {self.stage_layers}")

    def _check_recomputed(self, counts: tuple[int, ...]) -> None:
        if self.recomputed_layers is not None:
            raise ParplanError("recomputed_of_stages: recomputed_layers is given as well")
        if len(counts) != self.total_stages:
            raise ParplanError(
                f"recomputed_of_stages: {len(counts)} entries for {self.total_stages} stages"
            )
        if min(counts) < 0:
            raise ParplanError(f"recomputed_of_stages: must not be negative: {counts}")

    @property
    def num_devices(self) -> int:
        """Accelerators that the plan occupies."""
        return self.num_stages * self.replicas * self.tensor_parallel

    @property
    def replicas(self) -> int:
        """Ranks that have the same parameters: data- and context-parallel ones."""
        return self.data_parallel * self.context_parallel

    @property
    def sharded_over(self) -> int:
        """Ranks that what is sharded is spread over."""
        return self.shard_group or self.replicas

    @property
    def total_stages(self) -> int:
        """Stages of the whole pipeline, all chunks counted."""
        return self.num_stages * self.virtual_stages

    if TYPE_CHECKING:
        zero_stage: Given[int, None] = Given()
    else:

        @property
        def zero_stage(self) -> int:
            """The ZeRO stage (Rajbhandari et al. 2020) that the three distribute fields make."""
            return self.distribute_param + self.distribute_gradient + self.distribute_low_prec_param

    def layers_of_stages(self, num_layers: int) -> tuple[int, ...]:
        """Blocks on each stage; an uneven rest goes to the first stages."""
        if self.stage_layers is not None:
            return self.stage_layers
        least, rest = divmod(num_layers, self.total_stages)
        return tuple(least + (stage < rest) for stage in range(self.total_stages))

    def recomputed_of(self, stage: int, num_blocks: int) -> int:
        """The number of recomputed blocks of the `num_blocks` of a stage: the first ones."""
        if self.recomputation == "none":
            return 0
        if self.recomputed_of_stages is not None:
            return min(num_blocks, self.recomputed_of_stages[stage])
        return num_blocks if self.recomputed_layers is None else self.recomputed_layers

    def to_json(self) -> dict[str, Any]:
        """A table that `from_json` reads back to an equal plan."""
        return dataclasses.asdict(self)

    @staticmethod
    def from_json(table: object, where: str = "plan") -> "Plan":
        """The plan of a JSON table; raises `ParplanError` with `where` and the key."""
        return build(Plan, table, where)


_SLOTS = tuple(vars(Plan)[field.name] for field in dataclasses.fields(Plan))
_SLOT_OF = {slot.__name__: slot for slot in _SLOTS}


def with_values(plan: Plan, values: Mapping[str, Any]) -> Plan:
    """`plan` with other values of some fields, as `dataclasses.replace`, but unchecked and fast.

    For values that make a plan, such as those of a space.
    """
    made = object.__new__(Plan)
    for slot in _SLOTS:
        slot.__set__(made, slot.__get__(plan))
    for name, value in values.items():
        _SLOT_OF[name].__set__(made, value)
    return made


@lru_cache(maxsize=4096)
def layers_with_ends(num_layers: int, num_stages: int, ends: int) -> tuple[int, ...] | None:
    """Blocks on each stage if embedding and head count as `ends` layers together.

    The embedding counts as one; an uneven rest goes to the first stages. None: as even as possible,
    or too few layers for so many stages.
    """
    if not ends or num_stages == 1:
        return None
    each, more = divmod(num_layers + ends, num_stages)
    counts = [each + (stage < more) for stage in range(num_stages)]
    counts[0] -= 1
    counts[-1] -= ends - 1
    return tuple(counts) if min(counts) >= 0 else None


def check_plan(plan: Plan, workload: Workload, num_accelerators: int) -> None:
    """Raise `ParplanError` unless `plan` lays out `workload` on so many accelerators exactly."""
    model = workload.model
    if plan.num_devices != num_accelerators:
        raise ParplanError(
            f"plan: num_stages {plan.num_stages} x data_parallel {plan.data_parallel} x "
            f"tensor_parallel {plan.tensor_parallel}"
            + (f" x context_parallel {plan.context_parallel}" if plan.context_parallel > 1 else "")
            + f" = {plan.num_devices} devices, "
            f"but the cluster has {num_accelerators}"
        )
    if plan.stage_layers is None and plan.total_stages > model.num_layers:
        raise ParplanError(
            f"plan: {plan.total_stages} stages, but {model.name} has {model.num_layers} layers"
        )
    batch = plan.data_parallel * plan.num_micro_batches * plan.batch_per_device
    if batch != workload.global_batch:
        raise ParplanError(
            f"plan: data_parallel {plan.data_parallel} x num_micro_batches "
            f"{plan.num_micro_batches} x batch_per_device {plan.batch_per_device} = {batch}, "
            f"but the global batch is {workload.global_batch}"
        )
    if plan.stage_layers is not None and sum(plan.stage_layers) != model.num_layers:
        raise ParplanError(
            f"plan: stage_layers sum to {sum(plan.stage_layers)}, "
            f"but {model.name} has {model.num_layers} layers"
        )
    if workload.seq_len % plan.context_parallel:
        raise ParplanError(
            f"plan: context_parallel {plan.context_parallel} does not divide "
            f"seq_len {workload.seq_len}"
        )
    _check_experts(plan, workload)
    for what, size in (("heads", model.num_heads), ("ffn_size", model.ffn_size)):
        if size % plan.tensor_parallel:
            raise ParplanError(
                f"plan: tensor_parallel {plan.tensor_parallel} does not divide {what} {size}"
            )
    if plan.sequence_parallel and workload.seq_len % plan.tensor_parallel:
        raise ParplanError(
            f"plan: tensor_parallel {plan.tensor_parallel} does not divide "
            f"seq_len {workload.seq_len}, which sequence_parallel needs"
        )


def _check_experts(plan: Plan, workload: Workload) -> None:
    moe = workload.model.moe
    if moe is None:
        if plan.expert_parallel > 1:
            raise ParplanError(
                f"plan: expert_parallel {plan.expert_parallel}, but {workload.model.name} has no "
                "experts"
            )
        return
    ranks = plan.replicas * plan.tensor_parallel
    split = plan.expert_tensor_parallel or plan.tensor_parallel
    if moe.num_experts % plan.expert_parallel or ranks % (plan.expert_parallel * split):
        raise ParplanError(
            f"plan: expert_parallel {plan.expert_parallel} has to divide {moe.num_experts} experts "
            f"and, times expert_tensor_parallel {split}, the {ranks} ranks of a stage"
        )
