"""Proxy models predict plans: on made-up costs exactly, and never from a plan's own step."""

import dataclasses
from dataclasses import dataclass

import pytest

from parplan.backend.proxies.memory_predict import (
    BEFORE,
    ProxyMemory,
    places_of,
    predict_peaks,
    proxy_memory,
)
from parplan.backend.proxies.predict import predict_exposed, predict_step
from parplan.backend.proxies.proxy import ProxyModel, proxies_of
from parplan.backend.proxies.proxy_costs import ProxyCosts, proxy_costs, turns
from parplan.sim.plan import Plan, zero_fields
from parplan.sim.programs.instructions import Action, rank_of_stages
from parplan.sim.schedules import CATALOGUE, make_schedule

BLOCKS = 8

PLANS = [
    Plan(data_parallel=2, batch_per_device=4),
    Plan(data_parallel=2, num_micro_batches=4, **zero_fields(2)),
    Plan(tensor_parallel=2, num_micro_batches=2, recomputation="full"),
    Plan(num_stages=2, num_micro_batches=8, stage_layers=(6, 2)),
    Plan(num_stages=2, num_micro_batches=4, recomputation="full", recomputed_layers=2),
    *(
        Plan(
            num_stages=2,
            num_micro_batches=5 if 1 in kind.virtual_stages else 6,
            virtual_stages=2 if 2 in kind.virtual_stages else 1,
            schedule=name,
        )
        for name, kind in CATALOGUE.items()
        if kind.one_copy and name not in ("interleaved-1f1b", "looped-bfs", "interleaved-zb")
    ),
    Plan(num_stages=2, num_micro_batches=4, virtual_stages=2, schedule="interleaved-zb"),
]


def name_of(plan: Plan) -> str:
    return f"{plan.schedule} {plan.num_stages} {plan.virtual_stages} {plan.num_micro_batches}"


@pytest.mark.parametrize("plan", PLANS, ids=name_of)
def test_no_proxy_is_the_plan_itself(plan: Plan) -> None:
    depths = set(plan.layers_of_stages(BLOCKS))
    for family in proxies_of(plan, BLOCKS).families():
        for proxy in family:
            other_size = not {proxy.depth} & depths
            assert other_size or proxy.plan.num_micro_batches != plan.num_micro_batches
        assert family.shallow.depth < family.deep.depth
    single = Plan(batch_per_device=4)
    assert all(proxy.depth != 3 for family in proxies_of(single, 3).families() for proxy in family)


def test_plans_that_differ_in_order_or_number_alone_share_proxies() -> None:
    plan = Plan(num_stages=2, num_micro_batches=8, schedule="gpipe")
    others = [
        dataclasses.replace(plan, schedule="1f1b"),
        dataclasses.replace(plan, num_micro_batches=16),
    ]
    for other in others:
        assert proxies_of(other, BLOCKS) == proxies_of(plan, BLOCKS)
    smaller = dataclasses.replace(plan, batch_per_device=2)
    assert proxies_of(smaller, BLOCKS) != proxies_of(plan, BLOCKS)


def test_turns_count_gradients_and_not_micro_batches() -> None:
    actions = tuple(Action(0, op, m) for op in "FB" for m in (2, 0, 1))
    found = turns(actions)
    assert [found[a] for a in actions] == ["first", "middle", "last"] * 2
    assert turns([Action(0, "F", 0), Action(0, "B", 0)])[Action(0, "B", 0)] == "only"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    start_s: float
    marks: list[tuple[str, float, float]]


MS = 1e-3
SECONDS = {"F": (1.0, 3.0), "B": (2.0, 5.0), "I": (1.5, 2.5), "W": (1.2, 2.0)}
"""Milliseconds: of a stage, and of each of its blocks."""
RECOMPUTED = 0.7
BEGIN, FREE_GAP, ARRIVAL, MESSAGE_GAP, SYNC, OPTIMIZER = 0.4, 0.1, 0.9, 0.2, 0.3, 0.6


def seconds(plan: Plan, action: Action, blocks: int, turn: str, again: int) -> float:
    constant, per_block = SECONDS[action.op]
    more = RECOMPUTED * again if action.op in "BI" else 0.0
    first = 0.5 * blocks if action.op in "BW" and turn in ("first", "only") else 0.0
    return MS * (constant + 0.1 * action.stage + per_block * blocks + more + first)


def simulated(plan: Plan, counts: tuple[int, ...]) -> list[Sample]:
    """A step as a machine with exactly these costs runs it, one sample a pipeline rank."""
    schedule = make_schedule(
        plan.schedule, plan.num_stages, plan.num_micro_batches, plan.virtual_stages
    )
    rank_of, place = rank_of_stages(schedule), [0] * len(schedule)
    again = [
        0 if plan.recomputation == "none" else min(n, plan.recomputed_layers or n) for n in counts
    ]
    ends: dict[Action, float] = {}
    now = [0.0] * len(schedule)
    samples = [Sample(start_s=0.0, marks=[]) for _ in schedule]
    while any(place[r] < len(own) for r, own in enumerate(schedule)):
        for rank, actions in enumerate(schedule):
            while place[rank] < len(actions):
                action = actions[place[rank]]
                maker = maker_of(action, ends, len(counts))
                if maker is None:
                    break
                crosses = maker != action and rank_of[maker.stage] != rank
                if crosses:
                    start = max(now[rank] + MS * MESSAGE_GAP, ends[maker] + MS * ARRIVAL)
                else:
                    start = now[rank] + MS * (BEGIN if place[rank] == 0 else FREE_GAP)
                turn = turns(actions)[action]
                n = counts[action.stage]
                end = start + seconds(plan, action, n, turn, again[action.stage])
                samples[rank].marks.append((str(action), start, end))
                ends[action] = now[rank] = end
                place[rank] += 1
    done = max(now) + MS * SYNC
    for rank, sample in enumerate(samples):
        own = sum(counts[s] for s, r in rank_of.items() if r == rank)
        sample.marks.append((f"optimizer {rank}", done, done + MS * OPTIMIZER * own))
    return samples


def maker_of(action: Action, ends: dict[Action, float], stages: int) -> Action | None:
    """What it waits for; itself if for nothing; None if that is not there yet."""
    stage, op, m = action
    if op == "F" and stage > 0:
        needed = [Action(stage - 1, "F", m)]
    elif op in "BI" and stage < stages - 1:
        needed = [Action(stage + 1, "B", m), Action(stage + 1, "I", m)]
    else:
        return action
    return next((a for a in needed if a in ends), None)


def measured(plan: Plan) -> dict[ProxyModel, ProxyCosts]:
    found = {}
    for family in proxies_of(plan, BLOCKS).families():
        for proxy in family:
            own = proxy.plan
            one = dataclasses.replace(own, data_parallel=1, tensor_parallel=1)
            samples = simulated(one, own.layers_of_stages(proxy.num_blocks))
            everyone = [s for s in samples for _ in range(own.data_parallel * own.tensor_parallel)]
            waits = [{name: {"data-parallel": 1e-4} for name, *_ in s.marks} for s in everyone]
            found[proxy] = proxy_costs(own, [everyone] * 3, (everyone, waits))
    return found


@pytest.mark.parametrize("plan", PLANS, ids=name_of)
def test_a_machine_of_constant_costs_is_predicted_exactly(plan: Plan) -> None:
    one = dataclasses.replace(plan, data_parallel=1, tensor_parallel=1, **zero_fields(0))
    truth = simulated(one, plan.layers_of_stages(BLOCKS))
    step_s = max(mark[2] for sample in truth for mark in sample.marks)
    costs = measured(plan)
    found = predict_step(plan, BLOCKS, costs)
    # A proxy may see a message arrive between the two gaps; the rest is exact.
    assert found.step_s == pytest.approx(step_s, rel=0.01)
    durations = {e.name: e.end_s - e.start_s for e in found.events if e.stream == "compute"}
    for name, start, end in (mark for sample in truth for mark in sample.marks):
        if not name.startswith("optimizer"):
            assert durations[name] == pytest.approx(end - start, rel=1e-6)
    actions = sum(
        map(
            len,
            make_schedule(
                plan.schedule, plan.num_stages, plan.num_micro_batches, plan.virtual_stages
            ),
        )
    )
    exposed = predict_exposed(plan, BLOCKS, costs)
    assert exposed["data-parallel"] == pytest.approx(1e-4 * actions / plan.num_stages, rel=1e-6)


def test_a_line_of_noisy_proxies_below_zero_keeps_the_optimizers() -> None:
    plan = Plan(num_stages=2, num_micro_batches=4)
    costs = measured(plan)
    optimizers = {
        proxy: {
            part: 1.0 / (1 + 10 * proxy.depth**2) if part.name == "optimizer" else seconds
            for part, seconds in own.seconds.items()
        }
        for proxy, own in costs.items()
    }
    noisy = {
        proxy: dataclasses.replace(own, seconds=optimizers[proxy]) for proxy, own in costs.items()
    }
    found = predict_step(plan, BLOCKS, noisy)
    last_s = max(event.end_s for event in found.events)
    assert found.step_s == pytest.approx(last_s, rel=0.1)
    assert found.step_s >= last_s
    assert all(0 <= event.start_s <= event.end_s for event in found.events)
    optimizer_s = [e.end_s - e.start_s for e in found.events if e.name.startswith("optimizer")]
    assert len(optimizer_s) == 2
    assert min(optimizer_s) > 0


def test_sharded_stages_of_a_pipeline_hold_what_the_action_before_left() -> None:
    plan = Plan(num_stages=2, data_parallel=2, num_micro_batches=3, **zero_fields(3))
    actions = make_schedule("1f1b", 2, 3)[0]
    found = [f"{action} {place}" for action, place in places_of(plan, actions).items()]
    assert found == [
        *("0F0 first", "0F1 middle F", "0B0 first F"),
        *("0F2 last B", "0B1 middle F", "0B2 last B"),
    ]
    whole = dataclasses.replace(plan, distribute_low_prec_param=False)
    assert places_of(whole, actions) == turns(actions)


BASE, SAVED, GRADIENT, RECEIVED, WORK = 100.0, 10.0, 4.0, 3.0, 2.0
"""Bytes: at the start, and of a block. A backward works with more; what is received stays."""


def memory_segments(plan: Plan, rank: int, counts: tuple[int, ...]) -> list[tuple[str, int, int]]:
    schedule = make_schedule(
        plan.schedule, plan.num_stages, plan.num_micro_batches, plan.virtual_stages
    )
    found: list[tuple[str, float, float]] = []
    for action, turn in turns(schedule[rank]).items():
        n = counts[action.stage]
        change = SAVED * n if action.op == "F" else -SAVED * n
        if action.op == "B" and turn in ("first", "only"):
            change += GRADIENT * n
        peak = change if action.op == "F" else WORK
        found += [(BEFORE, 0, 0), (str(action), change, max(peak, change))]
    own = sum(counts[s] for s, r in rank_of_stages(schedule).items() if r == rank)
    return [*found, (f"optimizer {rank}", -GRADIENT * own, WORK)]  # type: ignore[list-item]


def start_bytes(plan: Plan, counts: tuple[int, ...]) -> float:
    return BASE + plan.num_micro_batches * RECEIVED + 2 * counts[0]


@pytest.mark.parametrize("plan", [p for p in PLANS if p.schedule in ("gpipe", "1f1b")], ids=name_of)
def test_peaks_of_known_memory_are_predicted_exactly(plan: Plan) -> None:
    if plan.recomputed_layers is not None or plan.stage_layers is not None:
        pytest.skip("the made-up memory knows equal stages alone")
    known: dict[ProxyModel, ProxyMemory] = {}
    for family in proxies_of(plan, BLOCKS).families():
        for proxy in family:
            own, ranks = proxy.plan, range(proxy.plan.num_stages)
            counts = own.layers_of_stages(proxy.num_blocks)
            width = own.data_parallel * own.tensor_parallel
            per_rank = [memory_segments(own, rank, counts) for rank in ranks]
            segments = [s for s in per_rank for _ in range(width)]
            starts = [start_bytes(own, counts)] * len(segments)
            received = [RECEIVED if own.num_stages > 1 else 0.0] * len(segments)
            known[proxy] = proxy_memory(own, segments, starts, received)
    counts = plan.layers_of_stages(BLOCKS)
    if plan.num_stages == 1:
        # Nothing is received: the proxies' own number counts.
        proxy = next(iter(known)).plan
        expected_start = start_bytes(proxy, counts)
    else:
        expected_start = start_bytes(plan, counts)
    for rank, found in enumerate(predict_peaks(plan, BLOCKS, known)):
        held, peak = expected_start, expected_start
        for name, change, top in memory_segments(plan, rank, counts):
            peak = max(peak, held + top) if name != BEFORE else peak
            held += change
        assert found == pytest.approx(peak)


def shaken(costs: ProxyCosts, factor: float) -> ProxyCosts:
    """The same costs, every duration as a noisy machine measured it."""
    return dataclasses.replace(
        costs, seconds={part: factor * value for part, value in costs.seconds.items()}
    )


@pytest.mark.parametrize("plan", PLANS, ids=name_of)
@pytest.mark.parametrize("factors", [(1.0, 0.1), (0.1, 1.0)], ids=["deep", "shallow"])
def test_noise_drives_no_cost_to_zero(plan: Plan, factors: tuple[float, float]) -> None:
    """One of the two depths ten times too fast: every action and optimizer stays in the run."""
    plain = predict_step(plan, BLOCKS, measured(plan))
    noisy = {}
    for proxy, costs in measured(plan).items():
        deep = any(proxy == family.deep for family in proxies_of(plan, BLOCKS).families())
        noisy[proxy] = shaken(costs, factors[0] if not deep else factors[1])
    run = predict_step(plan, BLOCKS, noisy)
    timed = [e for e in run.events if e.stream == "compute"]
    assert {e.name for e in timed} == {e.name for e in plain.events if e.stream == "compute"}
    assert any(e.name.startswith("optimizer") for e in timed)
    assert all(e.end_s > e.start_s for e in timed)


def test_measured_times_give_times_that_a_machine_can_have() -> None:
    family = proxies_of(Plan(data_parallel=2), 2).families().__next__()
    shallow, deep = family.shallow.depth, family.deep.depth
    assert family.seconds_at(deep + 1, (2.0, 1.0)) == family.seconds_at(0, (2.0, 1.0)) == 1.5
    assert family.seconds_at(shallow / 2, (1.0, 100.0)) == pytest.approx(0.5)
    assert family.seconds_at(2 * deep, (1.0, 2.0)) == family.at(2 * deep, (1.0, 2.0))
