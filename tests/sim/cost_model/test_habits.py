"""What training software does beside the plan, in kernels, exchanges and bytes."""

import dataclasses
from typing import Any

import pytest

from parplan.hardware.kernels.kernel import MemoryBound
from parplan.hardware.machines.presets import cluster_preset
from parplan.sim.layers.ends import head_ops
from parplan.sim.layers.mlp import mlp_ops
from parplan.sim.layers.ops import Op
from parplan.sim.layers.shapes import Shapes, shapes_of
from parplan.sim.memory.peak import stage_needs
from parplan.sim.models.model import model_preset
from parplan.sim.plan import Plan, zero_fields
from parplan.sim.prediction.predict import compile_plan, predict
from parplan.sim.software.framework import NO_OVERHEAD
from parplan.sim.software.habits import Software
from parplan.sim.workload import Workload

MODEL = model_preset("llama2-7b")


def workload(framework: Any = NO_OVERHEAD, **software: bool) -> Workload:
    return Workload(
        model=MODEL,
        seq_len=2048,
        global_batch=64,
        framework=framework,
        software=Software(**software),
    )


def plan(**fields: Any) -> Plan:
    usual: dict[str, Any] = {
        "num_stages": 1,
        "num_micro_batches": 16,
        "batch_per_device": 1,
        "data_parallel": 4,
        "tensor_parallel": 2,
        **zero_fields(1),
    }
    return Plan(**(usual | fields))


def shapes(**software: bool) -> Shapes:
    return shapes_of(workload(**software), plan())


def named(ops: tuple[Op, ...], name: str) -> Op:
    return next(op for op in ops if op.name == name)


def step_s(framework: Any = NO_OVERHEAD, **software: bool) -> float:
    compiled = compile_plan(workload(framework, **software), cluster_preset("8xa100-80gb"), plan())
    return predict(compiled).step_s


@pytest.mark.parametrize(
    "name",
    [
        "fused_gradient_accumulation",
        "overlap_tensor_gradients",
        "joint_up_projection",
        "parallel_loss",
    ],
)
def test_what_megatron_saves_costs_time_without_it(name: str) -> None:
    partly = dataclasses.replace(NO_OVERHEAD, tensor_hidden_share=0.5)
    assert step_s(partly, **{name: False}) > step_s(partly)


@pytest.mark.parametrize("name", ["whole_reduction", "fp32_reduction"])
def test_more_that_is_reduced_takes_longer(name: str) -> None:
    assert step_s(**{name: True}) > step_s()


def test_host_and_device_take_turns_when_launches_block() -> None:
    slow = dataclasses.replace(NO_OVERHEAD, host_s_per_kernel=1e-6)
    # Hidden behind the kernels, unless the host waits for each.
    assert step_s(slow) == step_s()
    assert step_s(slow, blocking_launches=True) > step_s()
    assert step_s(blocking_launches=True) == pytest.approx(step_s())


def test_gradients_that_are_not_fused_are_written_and_added() -> None:
    fused = named(mlp_ops(shapes()), "mlp down")
    apart = named(mlp_ops(shapes(fused_gradient_accumulation=False)), "mlp down")
    assert len(apart.weight_gradient) == len(fused.weight_gradient) + 1
    weights = MODEL.ffn_size // 2 * MODEL.hidden_size
    # Read as written in 16 bits, and added to what is there in the same type.
    assert MemoryBound(num_bytes=3 * 2.0 * weights) in apart.weight_gradient


def test_flat_gradients_are_joined_cast_and_divided() -> None:
    x = shapes_of(
        workload(fused_gradient_accumulation=False, flat_gradients=True),
        plan(gradient_dtype="fp32"),
    )
    weights = MODEL.ffn_size // 2 * MODEL.hidden_size
    kernels = named(mlp_ops(x), "mlp down").weight_gradient
    moved = [kernel.num_bytes for kernel in kernels if isinstance(kernel, MemoryBound)]
    assert sorted(moved) == [4 * weights, 6 * weights, 8 * weights]


def test_a_recomputed_head_computes_the_projection_again() -> None:
    recomputing = plan(recomputation="full")
    usual, again = (
        compile_plan(workload(recomputed_head=each), cluster_preset("8xa100-80gb"), recomputing)
        for each in (False, True)
    )
    assert predict(again).step_s > predict(usual).step_s
    assert again.peak_bytes <= usual.peak_bytes


def test_two_up_products_reduce_a_gradient_each() -> None:
    ops = mlp_ops(shapes(joint_up_projection=False))
    up, gate = named(ops, "mlp up"), named(ops, "mlp gate")
    joint = named(mlp_ops(shapes()), "mlp up")
    assert up.parameters + gate.parameters == joint.parameters
    assert up.backward_exchanges == gate.backward_exchanges == joint.backward_exchanges
    # Both read one input, which is kept once.
    assert up.input_bytes + gate.input_bytes == joint.input_bytes


def test_gathered_logits_cost_the_whole_vocabulary_on_every_rank() -> None:
    apart, gathered = head_ops(shapes()), head_ops(shapes(parallel_loss=False))
    (exchange,) = named(gathered, "vocabulary projection").forward_exchanges
    assert exchange.op == "all_gather"
    assert exchange.num_bytes == 2 * 2048 * MODEL.vocab_size
    assert named(gathered, "loss").inner_bytes == 2 * named(apart, "loss").inner_bytes


def test_low_precision_gradients_lie_beside_the_summed_ones() -> None:
    (usual,) = stage_needs(workload(), plan(gradient_dtype="fp32"))
    (beside,) = stage_needs(workload(low_precision_gradients=True), plan(gradient_dtype="fp32"))
    # 4 bytes a parameter, or 4 and 2.
    assert beside.gradient_bytes == pytest.approx(1.5 * usual.gradient_bytes)
