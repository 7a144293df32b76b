"""Exchanges of a run on streams of their own: within their action, one at a time, all of them."""

import dataclasses
from itertools import pairwise

import pytest

from parplan.hardware.machines.presets import cluster_preset
from parplan.sim.analysis.streams import with_streams
from parplan.sim.models.model import model_preset
from parplan.sim.plan import Plan
from parplan.sim.prediction.predict import compile_plan, predict
from parplan.sim.run import Run
from parplan.sim.software.framework import NO_OVERHEAD
from parplan.sim.software.habits import Software
from parplan.sim.workload import Workload

DENSE = Workload(
    model=model_preset("llama2-7b"), seq_len=2048, global_batch=8, framework=NO_OVERHEAD
)
EXPERTS = Workload(
    model=model_preset("mixtral-8x7b"), seq_len=2048, global_batch=16, framework=NO_OVERHEAD
)
CLUSTER = cluster_preset("16xh100")
BESIDE = Software(overlap_expert_exchange=True, expert_dispatch="nodes")
CASES = {
    "tensor-parallel": (DENSE, Plan(num_stages=2, tensor_parallel=8, num_micro_batches=8)),
    "sequence-parallel": (
        DENSE,
        Plan(num_stages=2, tensor_parallel=8, sequence_parallel=True, num_micro_batches=8),
    ),
    "context-parallel": (
        DENSE,
        Plan(num_stages=2, context_parallel=8, num_micro_batches=8, recomputation="full"),
    ),
    "expert-parallel": (
        EXPERTS,
        Plan(num_stages=2, data_parallel=8, expert_parallel=8, num_micro_batches=2),
    ),
    "overlapped experts": (
        dataclasses.replace(EXPERTS, software=BESIDE),
        Plan(num_stages=2, data_parallel=8, expert_parallel=8, num_micro_batches=2),
    ),
    "split backward": (
        DENSE,
        Plan(num_stages=2, tensor_parallel=8, num_micro_batches=8, schedule="zb-h1"),
    ),
}


def simulated(workload: Workload, plan: Plan) -> tuple[Run, Run]:
    run = predict(compile_plan(workload, CLUSTER, plan))
    return run, with_streams(run, workload, CLUSTER, plan)


@pytest.mark.parametrize("name", CASES)
def test_exchanges_lie_within_their_action_and_do_not_overlap(name: str) -> None:
    plain, detailed = simulated(*CASES[name])
    actions = {event.name: event for event in plain.events if event.stream == "compute"}
    added = [event for event in detailed.events if event.stream.endswith("-parallel")]
    added = [event for event in added if event.stream != "data-parallel"]
    assert added
    assert len(detailed.events) == len(plain.events) + len(added)
    for event in added:
        action = actions[event.name.split()[0]]
        assert action.start_s <= event.start_s <= event.end_s <= action.end_s * (1 + 1e-12)
    for rank in range(2):
        own = [event for event in added if event.rank == rank]
        assert all(a.end_s <= b.start_s + 1e-12 for a, b in pairwise(own))


def test_a_block_has_two_all_reduces_in_each_direction() -> None:
    _, detailed = simulated(*CASES["tensor-parallel"])
    forward = [
        e.name for e in detailed.events if e.name.startswith("1F0 ") and "all_reduce" in e.name
    ]
    blocks = [name for name in forward if "loss" not in name]
    assert len(blocks) == 2 * 16
    backward = [e for e in detailed.events if e.name.startswith("1B0 ")]
    assert len(backward) == 2 * 16 + 1  # and the head's


def test_without_model_parallelism_nothing_is_added() -> None:
    plan = Plan(num_stages=4, data_parallel=4, num_micro_batches=2)
    plain, detailed = simulated(DENSE, plan)
    assert tuple(plain.events) == tuple(detailed.events)
