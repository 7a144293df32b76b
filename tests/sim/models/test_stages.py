"""What lies on each stage: kinds of layers, partial recomputation, and every parameter once."""

from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parplan.sim.cost_model.stages import StageLayers, stage_parameters, stages_of
from parplan.sim.models.model import LatentAttention, MixtureOfExperts, Model
from parplan.sim.plan import Plan, zero_fields
from parplan.sim.software.framework import NO_OVERHEAD
from parplan.sim.workload import Workload


def model(num_layers: int, moe: MixtureOfExperts | None = None, tied: bool = False) -> Model:
    return Model(
        name="made up",
        num_layers=num_layers,
        hidden_size=64,
        num_heads=8,
        num_kv_heads=4,
        ffn_size=128,
        vocab_size=1000,
        mlp="gated",
        norm="rmsnorm",
        bias=False,
        tied_embeddings=tied,
        moe=moe,
        source="made up",
    )


def experts(first_dense_layers: int = 0, every: int = 1, shared: int = 0) -> MixtureOfExperts:
    return MixtureOfExperts(
        num_experts=8,
        top_k=2,
        ffn_size=32,
        shared_experts=shared,
        first_dense_layers=first_dense_layers,
        every=every,
    )


def workload(of: Model) -> Workload:
    return Workload(model=of, seq_len=128, global_batch=8, framework=NO_OVERHEAD)


def blocks(of: Model, plan: Plan) -> list[dict[tuple[str, bool], int]]:
    return [
        {(kind, again): count for kind, again, count in stage.blocks}
        for stage in stages_of(workload(of), plan)
    ]


def test_kinds_are_counted_by_stage() -> None:
    of = model(8, experts(first_dense_layers=3))
    assert blocks(of, Plan(num_stages=2, data_parallel=1, num_micro_batches=8)) == [
        {("dense", False): 3, ("moe", False): 1},
        {("moe", False): 4},
    ]


def test_kinds_alternate_where_every_other_layer_has_experts() -> None:
    of = model(6, experts(every=2))
    assert of.layer_kinds == ("dense", "moe") * 3
    found = blocks(of, Plan(num_stages=2, num_micro_batches=8))
    assert found == [
        {("dense", False): 2, ("moe", False): 1},
        {("dense", False): 1, ("moe", False): 2},
    ]


def test_stages_may_be_uneven() -> None:
    plan = Plan(num_stages=4, num_micro_batches=8, stage_layers=(1, 2, 2, 1))
    stages = stages_of(workload(model(6)), plan)
    assert [stage.num_blocks for stage in stages] == [1, 2, 2, 1]
    assert [stage.is_first for stage in stages] == [True, False, False, False]
    assert [stage.is_last for stage in stages] == [False, False, False, True]
    assert stages[1] == stages[2]


def test_the_first_layers_of_every_stage_are_recomputed() -> None:
    of = model(8, experts(first_dense_layers=1))
    plan = Plan(num_stages=2, num_micro_batches=8, recomputation="full", recomputed_layers=2)
    assert blocks(of, plan) == [
        {("dense", True): 1, ("moe", True): 1, ("moe", False): 2},
        {("moe", True): 2, ("moe", False): 2},
    ]


@pytest.mark.parametrize(
    ("level", "layers", "recomputed"),
    [("none", 3, 0), ("none", None, 0), ("full", None, 4), ("full", 0, 0), ("selective", 9, 4)],
)
def test_how_many_are_recomputed(level: str, layers: int | None, recomputed: int) -> None:
    plan = Plan(recomputation=level, recomputed_layers=layers)  # type: ignore[arg-type]
    (stage,) = stages_of(workload(model(4)), plan)
    assert sum(count for _, again, count in stage.blocks if again) == recomputed
    assert stage.num_blocks == 4


@st.composite
def layouts(draw: st.DrawFn) -> tuple[Workload, Plan]:
    stages, chunks = draw(st.integers(1, 4)), draw(st.integers(1, 2))
    layers = draw(st.integers(stages * chunks, 20))
    moe = None
    if draw(st.booleans()):
        moe = experts(draw(st.integers(0, 3)), draw(st.integers(1, 3)), draw(st.integers(0, 2)))
    of = model(layers, moe, tied=draw(st.booleans()))
    tensor, data = draw(st.sampled_from([1, 2, 4])), draw(st.sampled_from([1, 2, 4]))
    cuts = stages * chunks - 1
    cut = sorted(draw(st.lists(st.integers(0, layers), min_size=cuts, max_size=cuts)))
    bounds = [0, *cut, layers]
    split = tuple(b - a for a, b in pairwise(bounds))
    spread = 1
    if moe is not None:
        spread = draw(st.sampled_from([n for n in (1, 2, 4) if n <= data]))
    plan = Plan(
        num_stages=stages,
        virtual_stages=chunks,
        data_parallel=data,
        tensor_parallel=tensor,
        expert_parallel=spread,
        expert_tensor_parallel=draw(st.sampled_from([None, 1])) if moe is not None else None,
        stage_layers=split if draw(st.booleans()) else None,
        recomputation=draw(st.sampled_from(["none", "selective", "full"])),
        recomputed_layers=draw(st.sampled_from([None, 1, 3])),
        **zero_fields(draw(st.integers(0, 3))),
    )
    return workload(of), plan


def kinds(stages: tuple[StageLayers, ...]) -> Counter[str]:
    found: Counter[str] = Counter()
    for stage in stages:
        for kind, _, count in stage.blocks:
            found[kind] += count
    return found


@settings(max_examples=100, deadline=None)
@given(layouts())
def test_every_layer_is_on_one_stage(layout: tuple[Workload, Plan]) -> None:
    used, plan = layout
    stages = stages_of(used, plan)
    assert len(stages) == plan.total_stages
    assert kinds(stages) == Counter(used.model.layer_kinds)


@settings(max_examples=100, deadline=None)
@given(layouts())
def test_parameters_of_all_ranks_sum_to_those_of_the_model(layout: tuple[Workload, Plan]) -> None:
    used, plan = layout
    of, found = used.model, stage_parameters(used, plan)
    spread = plan.expert_parallel * (plan.expert_tensor_parallel or plan.tensor_parallel)
    total = sum(plan.tensor_parallel * stage.dense + spread * stage.experts for stage in found)
    # A tied projection is on both ends of a pipeline.
    twice = of.vocab_size * of.hidden_size if of.tied_embeddings and plan.total_stages > 1 else 0
    assert total == pytest.approx(of.num_parameters + twice, rel=1e-12)


@settings(max_examples=100, deadline=None)
@given(layouts())
def test_sharded_parameters_of_all_ranks_are_each_there_once(
    layout: tuple[Workload, Plan],
) -> None:
    used, plan = layout
    for stage in stage_parameters(used, plan):
        assert stage.held(plan, False) == stage.total
        ranks = plan.replicas * plan.tensor_parallel
        spread = plan.expert_parallel * (plan.expert_tensor_parallel or plan.tensor_parallel)
        if ranks // spread > plan.sharded_over:
            # More ranks have the same experts than there are shards: these repeat.
            assert stage.held(plan, True) <= stage.total / plan.sharded_over + 1e-9
            continue
        whole = plan.tensor_parallel * stage.dense + spread * stage.experts
        assert ranks * stage.held(plan, True) == pytest.approx(whole, rel=1e-12)


def test_shards_of_groups_repeat_between_them() -> None:
    plan = Plan(data_parallel=8, shard_group=2, **zero_fields(3))
    (stage,) = stage_parameters(workload(model(4)), plan)
    assert stage.held(plan, True) == pytest.approx(stage.total / 2)


def test_latent_attention_has_the_parameters_of_its_matrices() -> None:
    # DeepSeek-V3's attention (DeepSeek-AI 2024, arXiv:2412.19437, section 4.2): h = 7168, 128
    # heads of 128 + 64 features, ranks 1536 and 512, values of 128.
    latent = LatentAttention(
        query_rank=1536, kv_rank=512, nope_size=128, rope_size=64, value_size=128
    )
    of = Model(
        name="latent",
        num_layers=1,
        hidden_size=7168,
        num_heads=128,
        num_kv_heads=128,
        ffn_size=18432,
        vocab_size=129280,
        mlp="gated",
        norm="rmsnorm",
        bias=False,
        tied_embeddings=False,
        mla=latent,
        source="arXiv:2412.19437, section 4.2",
    )
    by_hand = (
        7168 * 1536 + 1536 * 128 * 192  # queries: down, up
        + 7168 * (512 + 64) + 512 * 128 * (128 + 128)  # keys and values: down, up
        + 128 * 128 * 7168  # output
    )  # fmt: skip
    assert of.attention_matrix_parameters == by_hand
    (stage,) = stage_parameters(workload(of), Plan())
    assert stage.dense == of.num_parameters
