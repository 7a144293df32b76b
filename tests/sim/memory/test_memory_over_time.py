"""Memory over a step: what is made is freed, and the peak is what planning counts with."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from parplan.errors import ParplanError
from parplan.sim.cost_model.stages import stage_parameters
from parplan.sim.costs import StageCosts
from parplan.sim.engine.engine import simulate
from parplan.sim.memory.moments import moments_of
from parplan.sim.memory.over_time import MemoryOverTime, memory_over_time
from parplan.sim.memory.peak import StageNeeds, rank_memory, stage_needs
from parplan.sim.models.model import model_preset
from parplan.sim.plan import Plan
from parplan.sim.programs.instructions import Program, Schedule, computations, read_csv
from parplan.sim.schedules import CATALOGUE, make_program, make_schedule, why_not
from parplan.sim.software.framework import NO_OVERHEAD
from parplan.sim.workload import Workload

SPLIT = read_csv("0F0,0F1,0I0,0I1,0W0,0W1\n1F0,1I0,1F1,1I1,1W0,1W1\n")
CHUNKED = read_csv("0F0,0F1,2F0,2F1,2B0,2B1,0B0,0B1\n1F0,1F1,3F0,3F1,3B0,3B1,1B0,1B1\n")
SCHEDULES = [make_schedule("1f1b", 3, 5), make_schedule("gpipe", 4, 3), SPLIT, CHUNKED]


def needs(**given: float) -> StageNeeds:
    names = StageNeeds.__dataclass_fields__
    return StageNeeds(**{**dict.fromkeys(names, 0.0), **given})


def costs(schedule: Program, **given: float) -> list[StageCosts]:
    stages = 1 + max(a.stage for rank in computations(schedule) for a in rank)
    one = {"forward_s": 1.0, "input_gradient_s": 1.0, "weight_gradient_s": 1.0, **given}
    return [StageCosts(**one)] * stages  # type: ignore[arg-type]


def simulated(
    schedule: Schedule, need: StageNeeds, message_bytes: float = 0.0, **seconds: float
) -> tuple[MemoryOverTime, ...]:
    stages = costs(schedule, **seconds)
    run = simulate(schedule, stages)
    return memory_over_time(schedule, [need] * len(stages), run, message_bytes=message_bytes)


@given(st.sampled_from(SCHEDULES), st.data())
@settings(deadline=None, max_examples=200)
def test_what_is_made_is_freed(schedule: Schedule, data: st.DataObject) -> None:
    seconds = st.sampled_from([0.0, 0.5, 1.0, 20.0])
    drawn = {
        n: data.draw(seconds) for n in ("forward_s", "input_gradient_s", "send_s", "latency_s")
    }
    for memory in simulated(schedule, needs(saved_bytes=4.0, recomputed_bytes=2.0), 1.0, **drawn):
        assert memory.activation_bytes[-1] == memory.message_bytes[-1] == 0
        assert min(memory.activation_bytes) == min(memory.message_bytes) == 0
        assert all(a <= b for a, b in pairwise(memory.times_s))


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_peak_is_that_of_planning(schedule: Schedule) -> None:
    need = needs(
        parameter_bytes=100.0, saved_bytes=4.0, recomputed_bytes=2.0, recomputed_stage_bytes=6.0
    )
    peaks = rank_memory([need] * 4, moments_of(schedule))
    assert [m.peak_bytes for m in simulated(schedule, need)] == [p.total_bytes for p in peaks]


@given(st.sampled_from(list(CATALOGUE)), st.data())
@settings(deadline=None, max_examples=100)
def test_peaks_are_those_over_time_for_every_schedule(name: str, data: st.DataObject) -> None:
    ranks, micro_batches = data.draw(st.integers(2, 4)), data.draw(st.integers(2, 12))
    chunks = next((v for v in (1, 2) if not why_not(name, ranks, micro_batches, v)), None)
    assume(chunks is not None)
    schedule = make_program(name, ranks, micro_batches, chunks)
    weights = st.integers(0, 9).map(float)
    stages = [
        needs(
            saved_bytes=data.draw(weights),
            recomputed_bytes=data.draw(weights),
            recomputed_stage_bytes=data.draw(weights),
        )
        for _ in range(ranks * chunks)
    ]
    run = simulate(schedule, costs(schedule))
    over_time = [m.activation_bytes.max() for m in memory_over_time(schedule, stages, run)]
    peaks = rank_memory(stages, moments_of(schedule))
    assert over_time == [p.activation_bytes for p in peaks]


def test_one_f_one_b_keeps_a_micro_batch_less_on_each_later_rank() -> None:
    memory = simulated(make_schedule("1f1b", 3, 8), needs(saved_bytes=1.0))
    assert [m.peak_bytes for m in memory] == [3, 2, 1]


def test_the_peak_is_reached_in_the_first_backward_when_it_recomputes() -> None:
    (memory,) = simulated(make_schedule("1f1b", 1, 2), needs(saved_bytes=1.0, recomputed_bytes=5.0))
    assert (memory.peak_bytes, memory.peak_s) == (6.0, 1.0)


def test_a_split_backward_keeps_what_it_recomputed_until_its_weight_gradients() -> None:
    need = needs(saved_bytes=1.0, recomputed_bytes=1.0, recomputed_stage_bytes=3.0)
    first, second = simulated(SPLIT, need)
    assert first.peak_bytes == 2 * (1 + 3)
    assert second.peak_bytes == 2 * (1 + 3)


def test_a_message_waits_on_its_receiver() -> None:
    # Rank 1 gets the second forward while it computes the first one.
    schedule = make_schedule("gpipe", 2, 2)
    _, second = simulated(schedule, needs(), 1.0, forward_s=2.0, send_s=1.0)
    held = dict(zip(second.times_s, second.message_bytes, strict=True))
    assert held[2.0] == 1  # on its way
    assert held[3.0] == 0  # used
    assert held[4.0] == 1


def test_fragmentation_wastes_a_share_of_what_comes_and_goes() -> None:
    schedule = make_schedule("1f1b", 1, 1)
    stages = costs(schedule)
    need = needs(parameter_bytes=10.0, saved_bytes=4.0)
    run = simulate(schedule, stages)
    (memory,) = memory_over_time(schedule, [need], run, fragmented_share=0.5)
    assert memory.peak_bytes == 10 + 1.5 * 4
    assert np.array_equal(memory.total_bytes - 10, 1.5 * memory.activation_bytes)
    with pytest.raises(ParplanError, match="fragmented_share: must not be negative"):
        memory_over_time(schedule, [need], run, fragmented_share=-0.1)


def test_moments_of_a_rank_with_three_stages_name_the_backward_that_runs() -> None:
    (found,) = moments_of(read_csv("0F0,1F0,2F0,2B0,1B0,0B0\n"))
    # All three are kept while the last one's backward runs; that moment exceeds all others but
    # those in which another backward runs.
    rows = {tuple(row) for row in found.counts.tolist()}
    assert rows == {
        (1, 1, 1, 0, 0, 0, 0, 0, 1),
        (1, 1, 0, 0, 0, 0, 0, 1, 0),
        (1, 0, 0, 0, 0, 0, 1, 0, 0),
    }


def test_adapters_alone_have_optimizer_state() -> None:
    model = model_preset("llama2-7b")
    workload = Workload(
        model=model, seq_len=1024, global_batch=8, lora_rank=16, framework=NO_OVERHEAD
    )
    plan = Plan(num_stages=1, num_micro_batches=8, batch_per_device=1, data_parallel=1)
    (needs,), (own,) = stage_needs(workload, plan), stage_parameters(workload, plan)
    trained = own.trained_share * own.total
    assert 0 < trained < own.total / 100
    assert needs.optimizer_bytes == pytest.approx(12 * trained)
    assert needs.gradient_bytes == pytest.approx(2 * trained)
