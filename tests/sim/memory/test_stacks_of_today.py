"""Memory of losses, optimizers, full sharding and selective recomputation as stacks have them."""

import dataclasses

import pytest

from parplan.errors import ParplanError
from parplan.planners.spaces.recomputed import EVERY_SECOND_PRODUCT, MODULES
from parplan.sim.cost_model.stage_costs import model_ops
from parplan.sim.layers.blocks import recomputed_ops
from parplan.sim.layers.ops import CORE, Op, kept_bytes
from parplan.sim.layers.shapes import shapes_of
from parplan.sim.memory.peak import RankMemory, rank_memory, stage_needs
from parplan.sim.models.model import model_preset
from parplan.sim.plan import Plan, zero_fields
from parplan.sim.prediction.predict import scheduled
from parplan.sim.software.habits import LOSS_CHUNKS, MEGATRON, TORCH, Software
from parplan.sim.workload import Workload

LLAMA = model_preset("llama3-8b")
TITAN = dataclasses.replace(TORCH, joint_up_projection=False, fp32_shards=True)


def memory(
    software: Software,
    model: str = "llama3-8b",
    *,
    batch: int = 1,
    optimizer: str = "adamw",
    **plan: object,
) -> RankMemory:
    """One device of eight, sharded fully where the plan does not say otherwise."""
    plan = {**zero_fields(3), "gradient_dtype": "fp32", **plan}
    made = Plan(data_parallel=8, batch_per_device=batch, **plan)  # type: ignore[arg-type]
    job = Workload(
        model=model_preset(model),
        seq_len=8192,
        global_batch=8 * batch,
        fused_loss=software.fused_gradient_accumulation,
        software=software,
        optimizer=optimizer,  # type: ignore[arg-type]
    )
    (found,) = rank_memory(stage_needs(job, made), scheduled(made).moments)
    return found


def test_a_measured_run_of_full_sharding_with_selective_recomputation() -> None:
    # torchtitan, benchmarks/llama3_h100_202412_torchtitan.md, table 1: 77.0 GiB with torch.compile.
    selective = {"recomputation": "selective", "recomputed_ops": EVERY_SECOND_PRODUCT}
    found = memory(TITAN, batch=2, **selective)
    assert found.total_bytes == pytest.approx(77.0 * 2**30, rel=0.03)


def test_grouped_experts_are_computed_again_under_selective_recomputation() -> None:
    selective = {"recomputation": "selective", "recomputed_ops": EVERY_SECOND_PRODUCT}
    chunked = dataclasses.replace(TITAN, loss="chunked")
    found = memory(chunked, "qwen3-30b-a3b", batch=8, **selective)
    # 152 GB was measured on B200.
    assert found.total_bytes == pytest.approx(152e9, rel=0.1)
    kept = memory(chunked, "qwen3-30b-a3b", batch=8, recomputation="none")
    assert kept.activation_bytes > 3 * found.activation_bytes


def test_what_came_from_other_ranks_is_not_sent_again() -> None:
    job = Workload(model=model_preset("qwen3-30b-a3b"), seq_len=4096, global_batch=8)
    plan = Plan(
        data_parallel=8,
        expert_parallel=8,
        recomputation="selective",
        recomputed_ops=EVERY_SECOND_PRODUCT,
    )
    (ops,) = model_ops(job, shapes_of(job, plan)).blocks.values()
    again = recomputed_ops(plan, ops)
    assert {"experts up", "experts down"} <= again
    assert not {"dispatch", "combine"} & again


def test_logits_of_a_chunked_loss_are_not_kept() -> None:
    tokens, vocab = 8192, LLAMA.vocab_size
    whole, chunked, fused = (
        memory(dataclasses.replace(TITAN, loss=loss), recomputation="full").activation_bytes
        for loss in ("whole", "chunked", "fused linear")
    )
    # The softmax's logarithm, and two gradients, in fp32: an eighth of the tokens at a time.
    logits = 12 * tokens * vocab
    hidden = 2 * tokens * LLAMA.hidden_size
    block = whole - logits
    assert chunked < block + logits / LOSS_CHUNKS + 2 * hidden
    # The gradient of the projection's weights is there from the forward on.
    assert fused > 2 * LLAMA.hidden_size * vocab
    assert fused < whole / 2


def test_a_trainer_that_holds_the_output_keeps_its_logits() -> None:
    held = dataclasses.replace(TITAN, keeps_logits=True)
    more = memory(held).activation_bytes - memory(TITAN).activation_bytes
    assert more == pytest.approx(2 * 8192 * LLAMA.vocab_size)


@pytest.mark.parametrize(
    ("optimizer", "masters", "bytes_of_parameter"),
    [
        ("adamw", True, 12.0),
        ("adamw-bf16", True, 8.0),
        ("adamw-8bit", True, 4.0 + 2 * (1 + 4 / 256)),
        ("adamw", False, 8.0),
        ("adamw-bf16", False, 4.0),
    ],
)
def test_optimizer_state_in_fewer_bits(
    optimizer: str, masters: bool, bytes_of_parameter: float
) -> None:
    software = dataclasses.replace(MEGATRON, master_parameters=masters)
    found = memory(software, optimizer=optimizer, **zero_fields(0))
    assert found.optimizer_bytes == pytest.approx(bytes_of_parameter * LLAMA.num_parameters)


def test_deepspeed_takes_eighteen_or_twenty_bytes() -> None:
    # Parameters and their gradients in 16 bits and in fp32, and both moments.
    added_up = memory(MEGATRON, **zero_fields(0))
    beside = dataclasses.replace(MEGATRON, low_precision_gradients=True)
    assert added_up.state_bytes == pytest.approx(18 * LLAMA.num_parameters)
    assert memory(beside, **zero_fields(0)).state_bytes == pytest.approx(20 * LLAMA.num_parameters)


def test_full_sharding_of_fp32_parameters_has_no_shard_in_16_bits() -> None:
    both = dataclasses.replace(TITAN, fp32_shards=False)
    more = memory(both).state_bytes - memory(TITAN).state_bytes
    assert more == pytest.approx(2 * LLAMA.num_parameters / 8)


def test_prefetched_units_are_whole_as_well() -> None:
    one, two, three = (
        memory(dataclasses.replace(TITAN, gathered_units=units)).parameter_bytes
        for units in (1, 2, 3)
    )
    # The two ends of the model are the largest units, then come blocks.
    assert two - one == pytest.approx(0, abs=2 * LLAMA.vocab_size * LLAMA.hidden_size)
    assert three - two == pytest.approx(2 * LLAMA.block_parameters, rel=0.01)
    with pytest.raises(ParplanError, match="gathered_units: must be at least 1, got 0"):
        Software(gathered_units=0)


def ops(*sizes: tuple[str, float, float, float]) -> tuple[Op, ...]:
    return tuple(
        Op(name=name, input_bytes=given, output_bytes=made, inner_bytes=inner)
        for name, given, made, inner in sizes
    )


def test_inputs_that_are_made_again_are_not_kept() -> None:
    # Of two operands of an activation one is computed again.
    block = ops(("up", 4, 0, 0), ("gate", 0, 10, 0), ("activation", 20, 0, 0), ("down", 10, 0, 0))
    assert kept_bytes(block, frozenset()) == 34
    assert kept_bytes(block, frozenset({"gate", "activation"})) == 14
    # What follows a product that is made again, without an input of its own, is made again too.
    latent = ops(("down", 4, 0, 0), ("up", 2, 0, 0), ("rotary", 0, 0, 0), (CORE, 30, 0, 5))
    assert kept_bytes(latent, frozenset({"up", "rotary"})) == 4 + 2 + 5
    assert kept_bytes(latent, frozenset(MODULES["core_attn"])) == 4 + 2 + 30
