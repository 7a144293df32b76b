"""Layers and parameters of each pipeline stage."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

from parplan.sim.models.model import Model
from parplan.sim.models.parts import LayerKind, has_experts
from parplan.sim.plan import Plan
from parplan.sim.workload import Workload

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class StageLayers:
    """The layers of one stage. Equal stages cost the same."""

    is_first: bool
    is_last: bool
    blocks: tuple[tuple[LayerKind, bool, int], ...]
    """(kind, whether it is recomputed, how many such blocks)."""

    @property
    def num_blocks(self) -> int:
        """Blocks of all kinds."""
        return sum(count for _, _, count in self.blocks)


def stages_of(workload: Workload, plan: Plan) -> tuple[StageLayers, ...]:
    """The layers of every stage, first stage first."""
    kinds, first, stages = workload.model.layer_kinds, 0, []
    counts = plan.layers_of_stages(workload.model.num_layers)
    for stage, count in enumerate(counts):
        own = kinds[first : first + count]
        first += count
        stages.append(
            StageLayers(
                is_first=stage == 0,
                is_last=stage == len(counts) - 1,
                blocks=tuple(_runs(plan.recomputed_of(stage, count), own)),
            )
        )
    return tuple(stages)


def runs_of(
    stage: StageLayers, embedding: T, blocks: Mapping[tuple[LayerKind, bool], T], head: T
) -> list[tuple[T, int]]:
    """Values of the layers of a stage, in order, with the number of consecutive equal ones.

    blocks: by kind, and by whether the block is recomputed.
    """
    first = [(embedding, 1)] if stage.is_first else []
    last = [(head, 1)] if stage.is_last else []
    own = [(blocks[kind, again], count) for kind, again, count in stage.blocks]
    return [*first, *own, *last]


def _runs(again: int, kinds: tuple[LayerKind, ...]) -> Iterator[tuple[LayerKind, bool, int]]:
    for kind in dict.fromkeys(kinds):
        recomputed = kinds[:again].count(kind)
        kept = kinds[again:].count(kind)
        if recomputed:
            yield kind, True, recomputed
        if kept:
            yield kind, False, kept


class ParameterUnit(NamedTuple):
    """Parameters that full sharding gathers and reduces together (one rank's, unsharded).

    Those of a block, or of an end of the model.
    """

    dense: float
    experts: float
    number: int
    """How many such units there are."""
    tensors: int = 1
    """Of how many matrices each is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StageParameters:
    """Parameters of one tensor-parallel (and expert-parallel) rank of a stage, unsharded."""

    dense: float
    """All but those of routed experts."""
    experts: float
    largest_layer: float
    """Of the block, or the end of the model, that has most."""
    trained_share: float
    """Of all parameters, those that get gradients."""
    units: tuple[ParameterUnit, ...] = ()
    """The same parameters by the units of full sharding; empty: one unit."""
    ends: float = 0.0
    """Of `dense`, those of embedding and head."""
    blocks: tuple[tuple[LayerKind, int], ...] = ()
    """Kinds of blocks, and how many there are."""

    @property
    def total(self) -> float:
        """All of them."""
        return self.dense + self.experts

    def by_unit(self) -> tuple[ParameterUnit, ...]:
        """The units of full sharding."""
        return self.units or (ParameterUnit(self.dense, self.experts, 1),)

    def held(self, plan: Plan, is_sharded: bool) -> float:
        """Those that one rank keeps, when they are sharded or not.

        Experts are sharded over the ranks that have the same ones.
        """
        return self._held(plan, self.dense) if is_sharded else self.total

    def held_matrices(self, plan: Plan, is_sharded: bool) -> float:
        """The same of blocks alone."""
        dense = self.dense - self.ends
        return self._held(plan, dense) if is_sharded else dense + self.experts

    def _held(self, plan: Plan, dense: float) -> float:
        spread = plan.expert_parallel * (plan.expert_tensor_parallel or plan.tensor_parallel)
        copies = plan.replicas * plan.tensor_parallel // spread
        shards = min(copies, plan.sharded_over)
        return dense / plan.sharded_over + self.experts / shards


def stage_parameters(workload: Workload, plan: Plan) -> tuple[StageParameters, ...]:
    """The parameters of every stage.

    A tied output projection lives on the first and on the last stage when they differ.
    """
    known: dict[StageLayers, StageParameters] = {}
    stages = stages_of(workload, plan)
    for stage in stages:
        if stage not in known:
            known[stage] = _parameters(workload, plan, stage)
    return tuple(known[stage] for stage in stages)


def _parameters(workload: Workload, plan: Plan, stage: StageLayers) -> StageParameters:
    model, split = workload.model, plan.tensor_parallel
    expert_split = plan.expert_tensor_parallel or split
    spread = plan.expert_parallel * expert_split
    ends = _ends(model, stage)
    units = [ParameterUnit(end / split, 0.0, 1) for end in ends]
    dense, experts, largest = float(sum(ends)), 0.0, sum(ends) / split
    for kind, count in _counts(stage).items():
        routed = model.expert_parameters if has_experts(kind) else 0
        own = model.parameters_of(kind) - routed
        dense += count * own
        experts += count * routed
        units.append(ParameterUnit(own / split, routed / spread, count, _matrices(workload, kind)))
        largest = max(largest, own / split + routed / spread)
    dense, experts = dense / split, experts / spread
    adapters = stage.num_blocks * adapter_parameters(workload) / split
    return StageParameters(
        dense=dense,
        experts=experts,
        largest_layer=largest,
        trained_share=adapters / (dense + experts) if workload.lora_rank else 1.0,
        units=tuple(units),
        ends=sum(ends) / split,
        blocks=tuple(_counts(stage).items()),
    )


def _matrices(workload: Workload, kind: LayerKind) -> int:
    """Two of attention, and those of the MLP or of each expert that it has."""
    model = workload.model
    gated = model.mlp == "gated" and not workload.software.joint_up_projection
    mlp = 3 if gated else 2
    return 2 + mlp * (model.moe.num_experts if model.moe and has_experts(kind) else 1)


def _counts(stage: StageLayers) -> Counter[LayerKind]:
    """How many blocks of each kind a stage has, recomputed or not."""
    counts: Counter[LayerKind] = Counter()
    for kind, _, count in stage.blocks:
        counts[kind] += count
    return counts


def _ends(model: Model, stage: StageLayers) -> list[int]:
    """Parameters of the ends of the model that a stage has, on all tensor-parallel ranks."""
    first = [model.embedding_parameters] if stage.is_first else []
    if not stage.is_last:
        return first
    again = model.tied_embeddings and not stage.is_first
    last = model.head_parameters + (model.vocab_size * model.hidden_size if again else 0)
    return [*first, last]


def adapter_parameters(workload: Workload) -> int:
    """Parameters of a block's low-rank adapters: two matrices beside each of two projections."""
    model = workload.model
    features = model.hidden_size + model.query_size + 2 * model.kv_size
    features += model.query_size + model.hidden_size
    return workload.lora_rank * features
