"""Layers as operations: their counts are those of the papers."""

import dataclasses
from collections.abc import Iterable

import pytest

from parplan.hardware.estimates.kernel_times import kernel_s
from parplan.hardware.kernels.kernel import Attention, Gemm, MemoryBound
from parplan.hardware.machines.presets import accelerator_preset
from parplan.sim.layers.attention import CORE, attention_ops
from parplan.sim.layers.blocks import block_ops
from parplan.sim.layers.ends import embedding_ops, head_ops
from parplan.sim.layers.mlp import mlp_ops, moe_ops
from parplan.sim.layers.ops import Op, all_bytes, kept_bytes
from parplan.sim.layers.shapes import Shapes, linear, shapes_of
from parplan.sim.models.model import LocalAttention, Model, model_preset, model_presets
from parplan.sim.plan import Plan
from parplan.sim.software.framework import NO_OVERHEAD
from parplan.sim.workload import Workload

GPT = Model(
    name="gpt",
    num_layers=4,
    hidden_size=1024,
    num_heads=16,
    num_kv_heads=16,
    ffn_size=4096,
    vocab_size=51200,
    mlp="plain",
    norm="layernorm",
    bias=True,
    tied_embeddings=False,
    learned_positions=2048,
    source="test",
)


def shapes(model: Model = GPT, batch: int = 2, seq_len: int = 512, **plan: object) -> Shapes:
    workload = Workload(
        model=model,
        seq_len=seq_len,
        global_batch=8,
        attention="unfused",
        dropout=True,
        framework=NO_OVERHEAD,
    )
    return shapes_of(workload, Plan(batch_per_device=batch, num_micro_batches=2, **plan))  # type: ignore[arg-type]


def block(x: Shapes) -> tuple[Op, ...]:
    return (*attention_ops(x), *mlp_ops(x))


def num_flops(ops: Iterable[Op]) -> float:
    """Of one forward and backward."""
    return sum(
        kernel.flops
        for op in ops
        for kernel in (*op.forward, *op.input_gradient, *op.weight_gradient)
    )


def sbh(x: Shapes) -> float:
    return x.batch * x.seq_len * x.model.hidden_size


@pytest.mark.parametrize("split", [1, 4])
def test_activations_are_those_of_korthikanti(split: int) -> None:
    # Korthikanti et al. 2022, arXiv:2205.05198: equations 1, 2 and 4.
    def kept(**plan: object) -> float:
        x = shapes(tensor_parallel=split, **plan)
        return kept_bytes(block(x), frozenset()) / sbh(x)

    scores = 5 * 16 * 512 / 1024
    assert kept() == 10 + (24 + scores) / split
    assert kept(sequence_parallel=True) == (34 + scores) / split


def test_recomputation_keeps_what_the_paper_says() -> None:
    x = shapes()
    ops = block(x)
    # Equation 6, and a block's input alone.
    assert kept_bytes(ops, frozenset({CORE})) == 34 * sbh(x)
    assert kept_bytes(ops, frozenset(op.name for op in ops)) == 2 * sbh(x)
    assert all_bytes(ops) == kept_bytes(ops, frozenset())


@pytest.mark.parametrize("model", model_presets().values(), ids=lambda model: model.name)
def test_operations_are_the_models_flops_and_parameters(model: Model) -> None:
    # As many tokens as the smallest window, which unfused attention does not skip.
    seq_len = 128
    # So many that each expert gets a whole number of tokens.
    batch = 60
    x = shapes(model, batch=batch, seq_len=seq_len)
    kinds = {kind: block_ops(x, kind) for kind in set(model.layer_kinds)}
    ends = (*embedding_ops(x), *head_ops(x))
    layers = [op for kind in model.layer_kinds for op in kinds[kind]]
    workload = Workload(model=model, seq_len=seq_len, global_batch=batch, framework=NO_OVERHEAD)
    # Latent attention is timed with one mean head size.
    assert num_flops([*layers, *ends]) == pytest.approx(workload.model_flops, rel=1e-3)
    parameters = sum(op.parameters + op.expert_parameters for op in (*layers, *ends))
    assert parameters == pytest.approx(model.num_parameters, rel=1e-4)


@pytest.mark.parametrize("window", [64, 128, 4096])
def test_a_window_takes_its_band_of_the_scores(window: int) -> None:
    model = dataclasses.replace(GPT, local=LocalAttention(window=window))
    x = dataclasses.replace(shapes(model), attention="flash")
    local = num_flops(attention_ops(x, local=True)) - num_flops(attention_ops(x))
    # Pairs of tokens below the diagonal: the whole triangle, or all but the one that is left out.
    left_out = max(0, x.seq_len - window) ** 2 / 2
    # 2 products forward and 5 backward, each 2 operations per pair and feature.
    assert local == pytest.approx(-7 * 2 * x.batch * left_out * model.hidden_size)


def test_a_parallel_block_exchanges_once_and_adds_once() -> None:
    parallel = dataclasses.replace(GPT, parallel_block=True, block_norms=1)
    one, two = shapes(parallel, tensor_parallel=4), shapes(tensor_parallel=4)
    ops, others = block_ops(one, "dense"), block_ops(two, "dense")
    assert num_flops(ops) == num_flops(others)
    count = len([e for op in ops for e in (*op.forward_exchanges, *op.backward_exchanges)])
    # One all-reduce forward, one backward.
    assert count == 2
    assert kept_bytes(ops, frozenset()) < kept_bytes(others, frozenset())


def test_queries_and_keys_that_are_normalised_are_read_once_more() -> None:
    def moved(model: Model) -> float:
        ops = attention_ops(shapes(model))
        return sum(k.num_bytes for op in ops for k in op.forward if isinstance(k, MemoryBound))

    x = shapes()
    read_and_written = 2 * 2 * x.value_bytes * sbh(x)
    assert moved(dataclasses.replace(GPT, query_key_norm=True)) - moved(GPT) == read_and_written


def test_flash_attention_keeps_no_scores() -> None:
    x = dataclasses.replace(shapes(), attention="flash", dropout=False)
    statistics = 4 * 16 * 2 * 512
    assert kept_bytes(block(x), frozenset()) == 32 * sbh(x) + statistics


@pytest.mark.parametrize("split", [2, 8])
def test_tensor_parallel_ranks_share_the_products(split: int) -> None:
    whole, part = shapes(), shapes(tensor_parallel=split)
    assert num_flops(block(part)) == num_flops(block(whole)) / split
    exchanges = [e for op in block(part) for e in (*op.forward_exchanges, *op.backward_exchanges)]
    # Two all-reduces forward, two backward.
    assert [e.op for e in exchanges] == ["all_reduce"] * 4
    assert {e.num_bytes for e in exchanges} == {2 * sbh(part)}


def test_sequence_parallelism_moves_the_same_bytes_in_two_halves() -> None:
    x = shapes(tensor_parallel=4, sequence_parallel=True)
    forward = [e.op for op in block(x) for e in op.forward_exchanges]
    assert forward == ["all_gather", "reduce_scatter"] * 2


def test_context_parallel_ranks_share_the_tokens() -> None:
    whole, part = shapes(), shapes(context_parallel=4)
    assert num_flops(block(part)) == num_flops(block(whole)) / 4
    (ring,) = [e for op in block(part) for e in op.forward_exchanges]
    assert (ring.group, ring.num_bytes, ring.overlaps) == ("context", 2 * 2 * sbh(whole), True)


def test_experts_are_spread_and_the_fullest_rank_counts() -> None:
    model = model_preset("mixtral-8x7b")
    one, spread = shapes(model), shapes(model, expert_parallel=4)

    def experts(x: Shapes) -> float:
        return sum(op.expert_parameters for op in moe_ops(x))

    assert experts(spread) == experts(one) / 4 == model.expert_parameters / 4
    # Tokens come from four ranks to a quarter of the experts.
    assert num_flops(moe_ops(spread)) == pytest.approx(num_flops(moe_ops(one)), rel=1e-6)
    loaded = dataclasses.replace(spread, expert_load=1.5)
    assert num_flops(moe_ops(loaded)) > 1.4 * num_flops(moe_ops(spread))
    sent = [e for op in moe_ops(spread) for e in op.forward_exchanges]
    assert [e.op for e in sent] == ["all_to_all"] * 2
    assert {e.num_bytes for e in sent} == {2 * 2 * 2 * 512 * model.hidden_size}


def test_elementwise_operations_that_are_not_fused_move_more_bytes() -> None:
    fused = shapes(model_preset("llama2-7b"))
    alone = dataclasses.replace(fused, fused_elementwise=False, fused_norms=False, fused_loss=False)

    def moved(x: Shapes, direction: str) -> float:
        ops = (*block(x), *head_ops(x))
        return sum(kernel.num_bytes for op in ops for kernel in getattr(op, direction))

    for direction in ("forward", "input_gradient"):
        assert moved(alone, direction) > moved(fused, direction)
    assert kept_bytes(block(alone), frozenset()) > kept_bytes(block(fused), frozenset())
    assert num_flops(block(alone)) == num_flops(block(fused))


def test_flash_attention_2_is_slower_on_hopper_alone() -> None:
    kernel = Attention(
        batch=1,
        heads=32,
        kv_heads=32,
        query_len=16384,
        key_len=16384,
        head_size=128,
        dtype="bf16",
    )
    second = dataclasses.replace(kernel, synchronous=True)
    hopper, ampere = accelerator_preset("h100-sxm"), accelerator_preset("a100-80gb")
    assert kernel_s(ampere, second) == kernel_s(ampere, kernel)
    assert kernel_s(hopper, second) > kernel_s(hopper, kernel)
    peak = hopper.peak_flop_per_s.of("bf16")
    assert second.flops / kernel_s(hopper, second) <= 0.35 * peak


def test_low_rank_adapters_leave_weight_gradients_out() -> None:
    x = dataclasses.replace(shapes(), frozen=True)
    assert not any(op.weight_gradient for op in (*block(x), *embedding_ops(x), *head_ops(x)))
    assert kept_bytes(block(x), frozenset()) < kept_bytes(block(shapes()), frozenset())


def test_products_in_the_type_of_their_values_are_those_that_a_profile_measures() -> None:
    op = linear(shapes(), "up", 64, 128, 256)
    assert op.forward == (Gemm(m=64, n=256, k=128, dtype=shapes().dtype),)
