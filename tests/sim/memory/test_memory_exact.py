"""Memory by hand: parts of a rank, moments, and what is held over the time of a step."""

import numpy as np
import pytest

from parplan.errors import ParplanError
from parplan.sim.cost_model.offload import buffer_bytes, kept_of_blocks, offloaded_bytes
from parplan.sim.cost_model.stages import StageParameters, stages_of
from parplan.sim.costs import StageCosts
from parplan.sim.engine.engine import simulate
from parplan.sim.layers.blocks import block_ops, recomputed_ops
from parplan.sim.layers.ops import all_bytes, kept_bytes
from parplan.sim.layers.shapes import shapes_of
from parplan.sim.memory.moments import Moments, _largest, moments_of
from parplan.sim.memory.over_time import memory_over_time
from parplan.sim.memory.peak import (
    Activations,
    LayerBytes,
    RankMemory,
    StageNeeds,
    activation_bytes,
    activation_peak,
    activations_of,
    layer_bytes,
    offloaded_activations,
    rank_memory,
    stage_needs,
    state_of,
)
from parplan.sim.models.model import model_preset
from parplan.sim.plan import Plan, zero_fields
from parplan.sim.programs.instructions import Action, Program, read_csv
from parplan.sim.schedules import make_schedule
from parplan.sim.software.framework import NO_OVERHEAD
from parplan.sim.software.habits import Software
from parplan.sim.workload import Workload

SPLIT = read_csv("0F0,0F1,0I0,0I1,0W0,0W1\n1F0,1I0,1F1,1I1,1W0,1W1\n")


def needs(*values: float) -> StageNeeds:
    """Parameters, gradients, optimizer; gathered of both; saved, recomputed, of the stage."""
    return StageNeeds(**dict(zip(StageNeeds.__dataclass_fields__, values, strict=True)))


def test_the_parts_of_a_rank_by_hand() -> None:
    first = needs(1e9, 2e9, 4e9, 0.5e9, 0.25e9, 3.0, 2.0, 6.0)
    second = needs(10e9, 20e9, 40e9, 0.125e9, 0.75e9, 5.0, 1.0, 7.0)
    both = read_csv("0F0,1F0,1B0,0B0\n")
    (memory,) = rank_memory([first, second], moments_of(both))
    assert memory == RankMemory(
        parameter_bytes=11.5e9,
        gradient_bytes=22.75e9,
        optimizer_bytes=44e9,
        activation_bytes=9.0,
    )
    assert memory.state_bytes == 78.25e9
    assert memory.total_bytes == 78.25e9 + 9
    one, two = rank_memory([first, second], moments_of(SPLIT))
    assert (one.parameter_bytes, one.gradient_bytes) == (1.5e9, 2.25e9)
    assert (one.activation_bytes, two.activation_bytes) == (2 * (3 + 6), 2 * (5 + 7))
    sizes = {"parameter_bytes": 1.24e9, "gradient_bytes": 2.5e9, "optimizer_bytes": 41e9}
    assert str(RankMemory(**sizes, activation_bytes=0.26e9)) == (
        "parameters 1.2, gradients 2.5, optimizer 41.0, activations 0.3 GB"
    )


def test_a_rank_without_actions_holds_nothing() -> None:
    idle = ((Action(0, "F", 0), Action(0, "B", 0)), ())
    need = needs(1.0, 1.0, 1.0, 1.0, 1.0, 2.0, 1.0, 1.0)
    nothing = RankMemory(
        parameter_bytes=0.0, gradient_bytes=0.0, optimizer_bytes=0.0, activation_bytes=0.0
    )
    busy, empty = rank_memory([need], moments_of(idle))
    assert busy.activation_bytes == 3.0
    assert empty == nothing
    cost = StageCosts(forward_s=1.0, input_gradient_s=1.0, weight_gradient_s=0.0)
    over_time = memory_over_time(idle, [need], simulate(idle, [cost]))
    assert over_time[1].peak_bytes == 0.0
    assert over_time[1].times_s.tolist() == [0.0]


def test_the_fullest_moment_of_many_candidates() -> None:
    counts = np.array([[2, 0, 1], [1, 1, 0], [0, 0, 0]])
    moments = Moments((0,), counts)
    weights = [np.array([1.0, 10.0, 0.0]), np.array([100.0, 1.0, 0.0]), np.array([3.0, 0.0, 0.0])]
    assert activation_peak(moments, weights).tolist() == [101.0, 20.0, 0.0]
    assert activation_peak(moments, [np.float64(w) for w in (1, 0, 0)]) == 2.0


def test_what_runs_and_what_is_kept_after_each_action() -> None:
    need, other = needs(*[0.0] * 5, 3.0, 2.0, 7.0), needs(*[0.0] * 5, 20.0, 10.0, 50.0)
    (actions,) = read_csv("0F0,1F0,1I0,1W0,0B0\n")
    found = [(running, kept) for _, running, kept in activation_bytes(actions, [need, other])]
    assert found == [(3, 3), (23, 23), (73, 73), (73, 3), (5, 0)]
    assert [action for action, _, _ in activation_bytes(actions, [need, other])] == list(actions)


def test_moments_are_the_largest_in_every_count() -> None:
    rows = np.array([[1, 0], [0, 3], [1, 2], [2, 1], [1, 1], [0, 3], [2, 1]])
    assert _largest(rows).tolist() == [[0, 3], [1, 2], [2, 1]]
    assert _largest(np.array([[0, 0]])).tolist() == [[0, 0]]


def test_moments_of_split_and_whole_backwards() -> None:
    first, second = moments_of(SPLIT)
    assert first.stages == (0,)
    assert second.stages == (1,)
    # Kept, of these between I and W, whether a B runs.
    assert first.counts.tolist() == [[2, 2, 0]]
    assert second.counts.tolist() == [[2, 2, 0]]
    (two,) = moments_of(read_csv("0F0,0F1,1F0,1B0,0B0,1F1,1I1,0B1,1W1\n"))
    assert two.stages == (0, 1)
    assert sorted(two.counts.tolist()) == [
        [1, 1, 0, 1, 1, 0],
        [2, 0, 0, 0, 1, 0],
        [2, 1, 0, 0, 0, 1],
    ]


def test_moments_of_split_backwards_of_three_stages() -> None:
    one = "0F{0},1F{0},2F{0},2I{0},1I{0},0I{0},2W{0},1W{0},0W{0}"
    (found,) = moments_of(read_csv(f"{one.format(0)},{one.format(1)}\n"))
    # With all weight gradients of a micro-batch done, nothing is held.
    assert found.counts.tolist() == [[1, 1, 1, 1, 1, 1, 0, 0, 0]]


def test_activations_add_up_over_layers_but_for_what_is_recomputed_one_at_a_time() -> None:
    layers = [(LayerBytes(10.0, 16.0, 3.0), 2), (LayerBytes(1.0, 5.0, 9.0), 3)]
    assert activations_of(layers) == Activations(23.0, 13.0, 24.0)
    assert activations_of(layers[:1]) == Activations(20.0, 9.0, 12.0)
    assert activations_of([]) == Activations(0.0, 0.0, 0.0)


def workload(**fields: object) -> Workload:
    given = {"model": model_preset("gpt3-1.3b"), "seq_len": 512, "global_batch": 16, **fields}
    return Workload(**given, framework=NO_OVERHEAD)  # type: ignore[arg-type]


def plan(**fields: object) -> Plan:
    layout = {"num_stages": 2, "data_parallel": 4, "num_micro_batches": 4, **fields}
    return Plan(**layout)  # type: ignore[arg-type]


@pytest.mark.parametrize("recomputation", ["none", "selective", "full"])
@pytest.mark.parametrize("offload", [False, True])
def test_activations_of_a_stage_by_its_layers(recomputation: str, offload: bool) -> None:
    own = plan(recomputation=recomputation, recomputed_layers=5, offload_activations=offload)
    first, last = stage_needs(workload(), own)
    stages, shapes = stages_of(workload(), own), shapes_of(workload(), own)
    again_of = 5 if recomputation != "none" else 0
    assert [(again, count) for _, again, count in stages[0].blocks] == (
        [(True, 5), (False, 7)] if again_of else [(False, 12)]
    )
    ops = block_ops(shapes, stages[0].blocks[0][0])
    again = recomputed_ops(own, ops) if again_of else frozenset()
    whole, kept = all_bytes(ops), kept_bytes(ops, again)
    block, recomputed = layer_bytes(ops, frozenset()), layer_bytes(ops, again)
    assert block == (whole, whole, max(op.working_bytes for op in ops))
    assert recomputed[:2] == (kept, whole)
    in_blocks = again_of * kept + (12 - again_of) * whole
    back = again_of * (whole - kept)
    if offload:
        given = kept_of_blocks(own, [(ops, True, again_of), (ops, False, 12 - again_of)])
        assert offloaded_bytes(given) == in_blocks
        assert buffer_bytes(given) == 2 * whole
        assert first.recomputed_stage_bytes == back + in_blocks
        # Only the embedding's activations, or the head's, stay.
        on_device = stage_needs(workload(), plan(recomputation=recomputation, recomputed_layers=5))
        for one, other in zip((first, last), on_device, strict=True):
            assert one.saved_bytes == other.saved_bytes - in_blocks
            assert one.recomputed_bytes == other.recomputed_bytes + 2 * whole
    else:
        assert first.recomputed_stage_bytes == back
        assert 0 <= first.saved_bytes - in_blocks < whole / 10
        assert first.recomputed_bytes == max(whole - kept, block.working)


def test_no_less_than_nothing_stays_on_the_device() -> None:
    own = plan(offload_activations=True)
    blocks, given = [(7.0, 12)], Activations(1.0, 2.0, 3.0)
    found = offloaded_activations(own, blocks, given)
    assert found.saved_bytes == 0.0
    assert found.recomputed_bytes > 2.0
    whole = Activations(1e12, 2.0, 3.0)
    in_host = found.recomputed_stage_bytes - 3.0
    assert offloaded_activations(own, blocks, whole).saved_bytes == 1e12 - in_host
    assert offloaded_activations(plan(), blocks, given) == given


PARAMETERS = StageParameters(dense=1000.0, experts=0.0, largest_layer=300.0, trained_share=0.5)
MASTERS = {"fp32": 0, "bf16": 4, "fp16": 4, "fp8": 4, "fp4": 4}


@pytest.mark.parametrize("precision", MASTERS)
@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
@pytest.mark.parametrize("zero", [0, 1, 2, 3])
def test_state_of_a_stage_by_hand(precision: str, optimizer: str, zero: int) -> None:
    # Not the literals of the sources: a name that was read from a file.
    given = workload(precision="".join(list(precision)), optimizer="".join(list(optimizer)))
    state = state_of(given, plan(num_stages=1, **zero_fields(zero)), PARAMETERS)
    value = 4 if precision == "fp32" else 2
    per_parameter = MASTERS[precision] + (8 if optimizer == "adamw" else 0)
    shard = {True: 250.0, False: 1000.0}
    assert state.parameter_bytes == value * shard[zero == 3]
    assert state.gradient_bytes == value * 0.5 * shard[zero >= 2]
    assert state.optimizer_bytes == per_parameter * 0.5 * shard[zero >= 1]
    assert state.gathered_parameter_bytes == value * 300.0 * (zero == 3)
    assert state.gathered_gradient_bytes == value * 0.5 * 300.0 * (zero >= 2)


def test_software_and_plan_change_the_state() -> None:
    one = plan(num_stages=1, gradient_dtype="fp32", **zero_fields(2))
    state = state_of(workload(), one, PARAMETERS)
    assert state.gradient_bytes == 4 * 0.5 * 250
    beside = workload(software=Software(low_precision_gradients=True))
    assert state_of(beside, one, PARAMETERS).gradient_bytes == 4 * 0.5 * 250 + 2 * 0.5 * 1000
    in_host = plan(num_stages=1, offload_optimizer=True)
    assert state_of(workload(), in_host, PARAMETERS).optimizer_bytes == 0
    once = workload(software=Software(pipelines_reduce_once=True))
    for stages, sharded in ((1, True), (2, False)):
        found = state_of(once, plan(num_stages=stages, **zero_fields(2)), PARAMETERS)
        assert found.gradient_bytes == 2 * 0.5 * (250 if sharded else 1000)
        assert found.gathered_gradient_bytes == 2 * 0.5 * 300 * sharded


def test_equal_stages_need_the_same_and_others_do_not() -> None:
    found = stage_needs(workload(), plan(num_stages=4))
    assert found[1] == found[2]
    assert len({found[0], found[1], found[3]}) == 3


def held(
    program: Program, *, send_s: float, latency_s: float = 0.25
) -> list[list[tuple[float, float, float]]]:
    """(from when on, activations, messages) of each rank."""
    cost = StageCosts(
        forward_s=1.0,
        input_gradient_s=1.0,
        weight_gradient_s=1.0,
        send_s=send_s,
        latency_s=latency_s,
        reduce_s=0.5,
        gather_s=0.5,
        optimizer_s=0.5,
    )
    need = needs(100.0, 0.0, 0.0, 0.0, 0.0, 4.0, 2.0, 8.0)
    run = simulate(program, [cost] * 2)
    found = memory_over_time(program, [need] * 2, run, message_bytes=3.0)
    assert [m.rank for m in found] == [0, 1]
    assert [m.state.parameter_bytes for m in found] == [100.0] * 2
    columns = [(m.times_s, m.activation_bytes, m.message_bytes) for m in found]
    return [list(zip(*(c.tolist() for c in own), strict=True)) for own in columns]


def test_messages_and_activations_over_a_step_by_hand() -> None:
    first, second = held(make_schedule("gpipe", 2, 1), send_s=0.5)
    # Forward until 1, sent until 1.5; the gradient comes from 4.75 on and is used from 5.5 to 7.5.
    assert first == [
        *[(0, 0, 0), (0, 4, 0), (1, 4, 0), (1, 4, 3), (1.5, 4, 0)],
        *[(4.75, 4, 3), (5.5, 6, 3), (7.5, 6, 0), (7.5, 0, 0)],
    ]
    # Activations come from 1 on and are used at 1.75; the gradient is made at 4.75.
    assert second == [
        *[(0, 0, 0), (1, 0, 3), (1.75, 0, 0), (1.75, 4, 0), (2.75, 4, 0), (2.75, 6, 0)],
        *[(4.75, 0, 0), (4.75, 0, 3), (5.25, 0, 0)],
    ]


def test_a_message_that_takes_no_time_waits_on_its_receiver_alone() -> None:
    split = read_csv("0F0,0I0,0W0\n1F0,1I0,1W0\n")
    first, second = held(split, send_s=0.0)
    assert first == [
        *[(0, 0, 0), (0, 4, 0), (1, 4, 0), (3.25, 4, 3), (3.5, 12, 3), (4.5, 12, 0)],
        *[(4.5, 12, 0), (4.5, 12, 0), (5.5, 0, 0)],
    ]
    assert second == [
        *[(0, 0, 0), (1, 0, 3), (1.25, 0, 0), (1.25, 4, 0), (2.25, 4, 0), (2.25, 12, 0)],
        *[(3.25, 12, 0), (3.25, 12, 0), (4.25, 0, 0)],
    ]
    # Nothing is held by a receiver that uses it at once.
    _, second = held(split, send_s=0.0, latency_s=0.0)
    assert all(messages == 0 for _, _, messages in second)


def test_what_stays_on_a_rank_is_no_message() -> None:
    program = read_csv("0F0,1F0,1B0,0B0\n")
    cost = StageCosts(forward_s=1.0, input_gradient_s=1.0, weight_gradient_s=1.0, send_s=1.0)
    run = simulate(program, [cost] * 2)
    (only,) = memory_over_time(program, [needs(*[1.0] * 8)] * 2, run, message_bytes=3.0)
    assert not only.message_bytes.any()


def test_the_total_is_state_and_what_comes_and_goes_with_its_waste() -> None:
    program = make_schedule("gpipe", 2, 2)
    cost = StageCosts(forward_s=1.0, input_gradient_s=1.0, weight_gradient_s=1.0, send_s=0.5)
    need, run = needs(100.0, 10.0, 1.0, 0.0, 0.0, 4.0, 0.0, 0.0), simulate(program, [cost] * 2)
    plain = memory_over_time(program, [need] * 2, run)[1]
    assert not plain.message_bytes.any()
    assert (plain.peak_bytes, plain.peak_s, plain.fragmented_share) == (119.0, 2.5, 0.0)
    found = memory_over_time(program, [need] * 2, run, message_bytes=3.0, fragmented_share=0.25)[1]
    assert found.total_bytes.tolist() == [
        111 + 1.25 * (a + m)
        for a, m in zip(found.activation_bytes.tolist(), found.message_bytes.tolist(), strict=True)
    ]
    assert found.peak_bytes == 111 + 1.25 * 8
    with pytest.raises(ParplanError, match="fragmented_share: must not be negative, got -1e-09"):
        memory_over_time(program, [need] * 2, run, fragmented_share=-1e-9)
