"""The lower bounds beside a second computation of the same paths, with Python's numbers; and how
tight they are."""

from collections.abc import Sequence
from itertools import product
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parplan.planners.bounds.schedule_bounds import memory_bound_bytes, step_bounds_s
from parplan.planners.spaces.constraints import SIMULATED
from parplan.sim.costs import StageCosts
from parplan.sim.fast.fast import fast_many
from parplan.sim.memory.peak import StageNeeds
from parplan.sim.schedules import make_program, schedule_kind, why_not
from parplan.sim.schedules.placement import rank_of_stage, stages_of_rank
from parplan.sim.step.tape import lower
from parplan.sim.ticks import PS_PER_S, stage_ticks, to_ps
from tests.planners.bounds.test_lower_bounds import stage


class Ticks:
    """One stage in whole picoseconds, as the paths of its micro-batches take them."""

    def __init__(self, own: StageCosts, splits: bool, overlaps: bool) -> None:
        weights = own.weight_gradient_s
        both_s = own.input_gradient_s + weights
        extra = own.first_gradient_extra_s
        self.forward = to_ps(own.forward_s)
        self.message = to_ps(own.send_s) + to_ps(own.latency_s)
        self.reduce, self.norm = to_ps(own.reduce_s), to_ps(own.norm_sync_s)
        self.end = to_ps(own.optimizer_s) + to_ps(own.gather_s)
        self.each, self.buckets = own.reduce_each_micro_batch, own.reduce_buckets
        both, both_first = to_ps(both_s), to_ps(both_s + extra)
        apart, first_apart = to_ps(weights), to_ps(weights + extra)
        inputs = to_ps(own.input_gradient_s)
        self.alone = self.forward
        if overlaps:
            self.alone -= int(np.rint(own.overlap_share * self.forward))
        self.onward, self.backward, self.once = both, both, both_first - both
        self.longest = max(both, both_first)
        if splits:
            # The part that the stage before waits for; all of it; what the first one has beside.
            self.onward = min(both, inputs)
            self.backward = min(both, inputs + apart)
            self.once = min(self.once, first_apart - apart)
            self.longest = max(self.longest, apart, first_apart)


def tail(one: Ticks, longest: int) -> int:
    """Of the last bucket, or of what is left of the first, which goes beside the backward."""
    n = max(1, one.buckets)
    last = one.reduce - one.reduce * (n - 1) // n
    return max(0, last, one.reduce - (longest - longest // n))


def paths_s(name: str, ranks: int, count: int, costs: Sequence[StageCosts]) -> float:
    kind = schedule_kind(name)
    # Of each stage of two copies.
    count = count if kind.one_copy else count // 2
    stages = [Ticks(own, kind.splits_backward, kind.overlaps) for own in costs]
    virtual = len(stages) // ranks
    on = [rank_of_stage(kind.placement, ranks, s) for s in range(len(stages))]

    def hop(start: int, end: int) -> int:
        return stages[start].message if on[start] != on[end] else 0

    beside = max(one.forward for one in stages) if kind.overlaps else 0
    tails = [tail(one, one.longest + beside) for one in stages]
    arrives = [0]
    for s in range(len(stages) - 1):
        arrives.append(arrives[-1] + stages[s].forward + hop(s, s + 1))
    # When the backward of a stage can begin at first, and how long its gradient needs to the first
    # stage's last backward.
    begins = [arrives[-1] + stages[-1].forward]
    for s in reversed(range(1, len(stages))):
        begins.insert(0, begins[0] + stages[s].onward + hop(s, s - 1))
    back = [stages[0].backward - stages[0].onward, stages[0].backward]
    for s in range(1, len(stages)):
        back[s] += hop(s, s - 1)
        back.append(back[s] + stages[s].onward)
    found, norm = 0, max(one.norm for one in stages)
    alone = kind.splits_backward and kind.one_copy and any(own.post_validation for own in costs)
    home = sum(stages[s].end for s in stages_of_rank(kind.placement, ranks, on[0], virtual))
    for rank in range(ranks):
        own = stages_of_rank(kind.placement, ranks, rank, virtual)
        mine = [stages[s] for s in own]
        start, end = min(arrives[s] for s in own), sum(one.end for one in mine)
        work = sum(count * (one.alone + one.backward) + one.once for one in mine)
        # Ranks with steps of their own do not wait for the first micro-batch within them.
        waits = start if alone else 0
        chain = work
        if kind.splits_backward:
            chain = sum(count * (one.alone + one.onward) for one in mine)
        reduced = sum((count if one.each else 1) * one.reduce for one in mine)
        found = max(
            *(found, start - waits + work + min(tails[s] for s in own) + end),
            start + chain + min(back[s] for s in own) + home + tails[0],
            min(begins[s] for s in own) - waits + reduced + end,
        )
    return (found + (0 if alone else norm)) / PS_PER_S


@settings(max_examples=150, deadline=None)
@given(
    data=st.data(),
    name=st.sampled_from(SIMULATED),
    ranks=st.integers(1, 4),
    counts=st.lists(st.integers(1, 9), min_size=2, max_size=2),
    virtual=st.integers(1, 4),
)
def test_the_bounds_are_the_longest_of_their_paths(
    data: st.DataObject, name: str, ranks: int, counts: list[int], virtual: int
) -> None:
    if any(why_not(name, ranks, count, virtual) for count in counts):
        return
    size = ranks * virtual
    costs = [data.draw(st.lists(stage, min_size=size, max_size=size)) for _ in counts]
    found = step_bounds_s(schedule_kind(name), ranks, counts, stage_ticks(costs))
    by_hand = [paths_s(name, ranks, *pair) for pair in zip(counts, costs, strict=True)]
    assert found.tolist() == by_hand


@pytest.mark.parametrize("name", SIMULATED)
def test_the_bounds_of_every_schedule_are_the_longest_of_their_paths(name: str) -> None:
    """With reductions that are about as long as what goes beside them."""
    rng = Random(name)
    sizes = [
        (ranks, count, virtual)
        for ranks, count, virtual in product((1, 2, 4), (1, 4, 8), (1, 2))
        if not why_not(name, ranks, count, virtual)
    ]
    assert sizes
    for turn in range(60):
        ranks, count, virtual = sizes[turn % len(sizes)]
        costs = [
            StageCosts(
                forward_s=rng.uniform(0, 2),
                input_gradient_s=rng.uniform(0, 2),
                weight_gradient_s=rng.uniform(0, 2),
                first_gradient_extra_s=rng.uniform(0, 1),
                send_s=rng.uniform(0, 0.5),
                latency_s=rng.uniform(0, 0.1),
                reduce_s=rng.uniform(0, 12),
                reduce_buckets=rng.randint(1, 6),
                optimizer_s=rng.uniform(0, 1),
                overlap_share=rng.uniform(0, 1),
            )
            for _ in range(ranks * virtual)
        ]
        (found,) = step_bounds_s(schedule_kind(name), ranks, [count], stage_ticks([costs]))
        assert found == paths_s(name, ranks, count, costs)


EQUAL = StageCosts(
    forward_s=1.0,
    input_gradient_s=1.25,
    weight_gradient_s=0.75,
    first_gradient_extra_s=0.25,
    send_s=0.125,
    latency_s=0.0625,
    optimizer_s=0.5,
    gather_s=0.25,
)


@pytest.mark.parametrize(("name", "virtual"), [("gpipe", 1), ("1f1b", 1), ("zb-h1", 1)])
@pytest.mark.parametrize(("ranks", "count"), [(1, 1), (1, 8), (4, 1), (2, 12)])
def test_the_bound_of_equal_stages_is_their_step_or_close_to_it(
    name: str, virtual: int, ranks: int, count: int
) -> None:
    costs = [EQUAL] * ranks
    ticks = stage_ticks([costs])
    bound = float(step_bounds_s(schedule_kind(name), ranks, [count], ticks)[0])
    exact = float(fast_many(lower(make_program(name, ranks, count, virtual)), ticks)[0])
    if ranks == 1 or (count == 1 and name != "zb-h1"):
        # On the way of a gradient through all stages, what the first one has beside is left out.
        assert bound == exact - (ranks - 1) * EQUAL.first_gradient_extra_s
    # In steady state a rank of 1f1b waits for messages there and back, which no bound knows.
    assert 0.8 * exact < bound <= exact


def needs(*given: float) -> StageNeeds:
    parameters, gradients, optimizer, saved, again = given
    return StageNeeds(
        parameter_bytes=parameters,
        gradient_bytes=gradients,
        optimizer_bytes=optimizer,
        gathered_parameter_bytes=1e6,
        gathered_gradient_bytes=1e6,
        saved_bytes=saved,
        recomputed_bytes=again,
        recomputed_stage_bytes=1e6,
    )


def test_the_least_memory_is_all_state_of_a_rank_and_one_micro_batch_of_one_stage() -> None:
    stages = [
        needs(1, 2, 4, 8, 16),
        needs(32, 64, 128, 256, 512),
        needs(1000, 0, 0, 30, 500),
        needs(3, 5, 7, 11, 13),
    ]
    slack = 1 - 1e-12
    loop, v = schedule_kind("interleaved-1f1b"), schedule_kind("zb-v")
    # Of a loop, ranks have stages (0, 2) and (1, 3); of a V, (0, 3) and (1, 2).
    first, second = 7 + 1000 + 530, 224 + 15 + 768
    assert memory_bound_bytes(loop, 2, stages) == slack * max(first, second)
    assert memory_bound_bytes(v, 2, stages) == slack * (224 + 1000 + 768)
    assert memory_bound_bytes(loop, 4, stages) == slack * (1000 + 530)
