"""The critical path has no gap; its resources are what shortens the step."""

import dataclasses
import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parplan.hardware.machines.presets import cluster_preset
from parplan.sim.analysis.bubble import bubble_by_cause, idle_by_cause
from parplan.sim.analysis.critical_path import RESOURCES, critical_path, sensitivities
from parplan.sim.analysis.time_split import action_causes, time_split
from parplan.sim.costs import StageCosts
from parplan.sim.engine.engine import simulate
from parplan.sim.models.model import model_preset
from parplan.sim.plan import Plan
from parplan.sim.prediction.predict import compile_plan, predict
from parplan.sim.programs.instructions import Program, computations, read_csv
from parplan.sim.schedules import make_program, make_schedule
from parplan.sim.workload import Workload

SPLIT = read_csv("0F0,0F1,0I0,0I1,0W0,0W1\n1F0,1I0,1F1,1I1,1W0,1W1\n")
CHUNKED = read_csv("0F0,0F1,2F0,2F1,2B0,2B1,0B0,0B1\n1F0,1F1,3F0,3F1,3B0,3B1,1B0,1B1\n")
SCHEDULES = [
    make_schedule("1f1b", 3, 5),
    make_schedule("gpipe", 4, 3),
    make_schedule("1f1b", 1, 2),
    SPLIT,
    CHUNKED,
    make_program("dualpipe-v", 2, 5, 2),
    make_program("dualpipe", 2, 4),
    make_program("dualpipe", 4, 8),
]

# Few distinct values, so that ties are frequent; messages may be far longer than computations.
seconds = st.sampled_from([0.0, 0.25, 1.0, 1.5, 40.0]) | st.floats(0, 3)


@st.composite
def stage_costs(draw: st.DrawFn) -> StageCosts:
    return StageCosts(
        **{field: draw(seconds) for fields in RESOURCES.values() for field in fields},
        reduce_buckets=draw(st.integers(1, 3)),
        reduce_each_micro_batch=draw(st.booleans()),
        overlap_share=draw(st.sampled_from([0.0, 0.5, 1.0])),
        post_validation=draw(st.booleans()),
    )


def cost(**given: float) -> StageCosts:
    return StageCosts(
        **{"forward_s": 1.0, "input_gradient_s": 1.0, "weight_gradient_s": 1.0, **given}  # type: ignore[arg-type]
    )


def costs_of(program: Program, data: st.DataObject) -> list[StageCosts]:
    actions = [(a, rank) for rank, own in enumerate(computations(program)) for a in own]
    stages = 1 + max(action.stage for action, _ in actions)
    costs = [data.draw(stage_costs()) for _ in range(stages)]
    if len({(action.stage, rank) for action, rank in actions}) > stages:
        # Copies of a stage reduce their gradients once.
        costs = [dataclasses.replace(c, reduce_each_micro_batch=False) for c in costs]
    if any(c.post_validation for c in costs):
        # Of parts of a norm that ranks pass on there are no events.
        costs = [dataclasses.replace(c, norm_sync_s=0.0) for c in costs]
    return costs


@given(st.sampled_from(SCHEDULES), st.data(), st.sampled_from([1.0, 53.2109]))
@settings(deadline=None, max_examples=300)
def test_the_path_goes_from_start_to_end_without_a_gap(
    schedule: Program, data: st.DataObject, scale: float
) -> None:
    costs = [
        dataclasses.replace(
            c, **{name: scale * getattr(c, name) for names in RESOURCES.values() for name in names}
        )
        for c in costs_of(schedule, data)
    ]
    run = simulate(schedule, costs)
    path = critical_path(schedule, costs, run)
    if run.step_s == 0:
        return
    assert run.staggered or path[0].start_s == 0
    assert path[-1].end_s - path[0].start_s == pytest.approx(run.step_s)
    assert run.staggered or path[-1].end_s == run.step_s
    assert all(a.end_s == b.start_s for a, b in itertools.pairwise(path))


@given(st.sampled_from(SCHEDULES), st.data())
@settings(deadline=None, max_examples=200)
def test_busy_and_idle_seconds_make_the_step(schedule: Program, data: st.DataObject) -> None:
    run = simulate(schedule, costs_of(schedule, data))
    for rank, idle in enumerate(idle_by_cause(schedule, run)):
        values = dataclasses.asdict(idle).values()
        assert min(values) >= 0
        assert idle.total_s + run.busy_s(rank) == pytest.approx(run.step_s)
    assert sum(bubble_by_cause(schedule, run).values()) == pytest.approx(run.bubble, abs=1e-12)


def test_the_slowest_stage_is_on_the_path() -> None:
    schedule, costs = make_schedule("1f1b", 3, 8), [cost(), cost(forward_s=5.0), cost()]
    first, *_ = sensitivities(schedule, costs, simulate(schedule, costs))
    by_stage = {s.stage: s for s in sensitivities(schedule, costs, simulate(schedule, costs))}
    assert first.resource == "compute"
    assert by_stage[1].gain_s > 5 * by_stage[0].gain_s
    # 8 forwards and 7 backwards; one backward hides behind the last trip to stage 2 and back.
    assert by_stage[1].on_path_s == 8 * 5 + 7 * 2


def test_the_gain_is_that_of_the_step_played_again() -> None:
    schedule = make_schedule("gpipe", 2, 2)
    costs = [cost(latency_s=0.5, send_s=0.25, optimizer_s=1.0)] * 2
    run = simulate(schedule, costs)
    gains = {s.resource: s for s in sensitivities(schedule, costs, run) if s.stage is None}
    assert run.step_s == 3 * 3 + 2 * 0.75 + 1
    assert gains["latency"].gain_if_free_s == 1.0
    assert gains["latency"].on_path_s == 1.0
    assert gains["bandwidth"].gain_if_free_s == 0.5
    assert gains["optimizer"].gain_s == pytest.approx(1 - 1 / 1.1)
    assert "reduction" not in gains


@pytest.mark.parametrize(
    "fields", [{"tensor_parallel": 8}, {"tensor_parallel": 4, "num_stages": 2}]
)
def test_exchanges_within_actions_are_those_of_the_time_split(fields: dict[str, int]) -> None:
    workload = Workload(model_preset("llama2-7b"), seq_len=1024, global_batch=16)
    cluster = cluster_preset("8xh100")
    compiled = compile_plan(workload, cluster, Plan(num_micro_batches=16, **fields))
    run = predict(compiled)
    causes = action_causes(workload, cluster, compiled)
    rows = sensitivities(compiled.schedule, compiled.costs, run, causes=causes)
    found = {row.resource: row for row in rows if row.stage is None}
    # Every second of the critical path is on one resource.
    assert sum(row.on_path_s for row in found.values()) == pytest.approx(run.step_s)
    split = time_split(workload, cluster, compiled, run).seconds["tensor exchange"]
    assert split > 0.05 * run.step_s
    exchange = found["tensor exchange"]
    assert 0 < exchange.gain_s < exchange.gain_if_free_s
    if compiled.plan.num_stages == 1:
        # Without a pipeline nothing hides them: they gain what they take, on both views.
        assert exchange.gain_if_free_s == pytest.approx(split, rel=1e-6)
        assert exchange.on_path_s == pytest.approx(split, rel=1e-6)
        assert found["compute"].gain_if_free_s + split < run.step_s
    else:
        assert exchange.gain_if_free_s > split  # In the bubble one waits for others' exchanges.


def test_causes_of_the_bubble() -> None:
    schedule = make_schedule("1f1b", 2, 2)
    idle = idle_by_cause(schedule, simulate(schedule, [cost(latency_s=0.5)] * 2))
    # Rank 1 waits a forward and a message; afterwards rank 0 waits for the first gradient.
    assert (idle[1].warm_up_s, idle[1].communication_s) == (1.0, 0.5)
    assert idle[0].warm_up_s == 0.5 + 1 + 2 - 1
    assert idle[0].communication_s > 0
    assert idle[0].end_s == 0
    assert idle[1].end_s == 0.5 + 2


def test_waiting_for_reductions_is_told_apart() -> None:
    schedule = make_schedule("gpipe", 1, 1)
    (idle,) = idle_by_cause(schedule, simulate(schedule, [cost(reduce_s=2.0, optimizer_s=1.0)]))
    assert idle.data_parallel_s == 2.0
    assert idle.total_s == 2.0
