"""The parallel configuration: what is split over which devices, and in which order it runs."""

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

from parplan.hardware.errors import ParplanError
from parplan.hardware.strict import build
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How one training step is laid out. Field names that Advanced Parallelization has are its."""

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
    distribute_param: bool = False
    """Shards fp32 master parameters and optimizer state over data-parallel ranks (ZeRO-1)."""
    distribute_gradient: bool = False
    """Shards gradients as well (ZeRO-2)."""
    distribute_low_prec_param: bool = False
    """Shards the working copy of the parameters as well, gathered at use (ZeRO-3)."""
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
        if self.stage_layers is not None:
            if len(self.stage_layers) != self.total_stages:
                raise ParplanError(
                    f"stage_layers: {len(self.stage_layers)} entries for {self.total_stages} stages"
                )
            if min(self.stage_layers) < 0:
                raise ParplanError(f"stage_layers: must not be negative: {self.stage_layers}")

    @property
    def num_devices(self) -> int:
        """Accelerators that the plan occupies."""
        return self.num_stages * self.data_parallel * self.tensor_parallel

    @property
    def total_stages(self) -> int:
        """Stages of the whole pipeline, all chunks counted."""
        return self.num_stages * self.virtual_stages

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

    def to_json(self) -> dict[str, Any]:
        """A table that `from_json` reads back to an equal plan."""
        return dataclasses.asdict(self)

    @staticmethod
    def from_json(table: object, where: str = "plan") -> "Plan":
        """The plan of a JSON table; raises `ParplanError` with `where` and the key."""
        return build(Plan, table, where)


def zero_fields(stage: int) -> dict[str, bool]:
    """The three distribute fields of a ZeRO stage (0 to 3)."""
    names = ("distribute_param", "distribute_gradient", "distribute_low_prec_param")
    return {name: stage > i for i, name in enumerate(names)}


def check_plan(plan: Plan, workload: Workload, num_accelerators: int) -> None:
    """Raise `ParplanError` unless `plan` lays out `workload` on so many accelerators exactly."""
    model = workload.model
    if plan.num_devices != num_accelerators:
        raise ParplanError(
            f"plan: num_stages {plan.num_stages} x data_parallel {plan.data_parallel} x "
            f"tensor_parallel {plan.tensor_parallel} = {plan.num_devices} devices, "
            f"but the cluster has {num_accelerators}"
        )
    if plan.total_stages > model.num_layers:
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
    for what, size in (("heads", model.num_kv_heads), ("ffn_size", model.ffn_size)):
        if size % plan.tensor_parallel:
            raise ParplanError(
                f"plan: tensor_parallel {plan.tensor_parallel} does not divide {what} {size}"
            )
    if plan.sequence_parallel and workload.seq_len % plan.tensor_parallel:
        raise ParplanError(
            f"plan: tensor_parallel {plan.tensor_parallel} does not divide "
            f"seq_len {workload.seq_len}, which sequence_parallel needs"
        )
