"""NSGA-II beside its definitions: fronts, crowding, who lives on."""

from collections.abc import Sequence
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parplan.planners.algorithms.heuristic import nsga2 as module
from parplan.planners.algorithms.heuristic.evolution import crossed, promising, repaired
from parplan.planners.algorithms.heuristic.nsga2 import _crowding, _dominates, _places
from parplan.planners.conformance import example_space
from parplan.planners.costs.trial import Trial
from parplan.planners.search.evaluator import Budget, Evaluator
from parplan.planners.search.run import run_planner
from parplan.planners.spaces.space import Space, point_of
from parplan.sim.plan import Plan

INF = float("inf")
Goals = tuple[float, float]


def trial(step_s: float | None, memory: float | None, number: int = 1) -> Trial:
    return Trial(
        plan=Plan(batch_per_device=number),
        step_s=step_s,
        memory_bytes=() if memory is None else (0.0, memory),
        reason="" if step_s else "no",
    )


def beats(one: Trial, two: Trial) -> bool:
    """Definition 2 and section VI of the paper."""
    if (one.step_s is None) != (two.step_s is None):
        return two.step_s is None
    memory = [max(t.memory_bytes, default=INF) for t in (one, two)]
    if one.step_s is None or two.step_s is None:
        return memory[0] < memory[1]
    no_worse = one.step_s <= two.step_s and memory[0] <= memory[1]
    return no_worse and (one.step_s < two.step_s or memory[0] < memory[1])


points = st.tuples(st.none() | st.integers(1, 5), st.integers(1, 5))


@given(st.lists(points, min_size=1, max_size=14))
def test_the_rank_is_the_number_of_fronts_before(found: list[tuple[int | None, int]]) -> None:
    trials = [
        trial(None if step is None else float(step), float(memory), n + 1)
        for n, (step, memory) in enumerate(found)
    ]
    places = _places(trials)
    left, rank = list(range(len(trials))), 0
    while left:
        front = [i for i in left if not any(beats(trials[j], trials[i]) for j in left)]
        assert [i for i, (own, _) in enumerate(places) if own == rank] == front
        left = [i for i in left if i not in front]
        rank += 1
    assert all(minus <= 0 for _, minus in places)


def test_what_has_no_layout_is_behind_all() -> None:
    ranks = [rank for rank, _ in _places([trial(None, None), trial(None, 9e99), trial(9.0, 1e99)])]
    assert ranks == [2, 1, 0]
    assert not _dominates((INF, INF), (INF, INF))
    assert not _dominates((1.0, 1.0), (1.0, 1.0))
    assert _dominates((1.0, 1.0), (1.0, 2.0))
    assert not _dominates((1.0, 2.0), (2.0, 1.0))
    assert not _dominates((INF, 1.0), (2.0, 9.0))


def test_crowding_is_the_way_between_the_neighbours() -> None:
    goals: list[Goals] = [(9.0, 9.0), (1.0, 50.0), (2.0, 30.0), (4.0, 20.0), (6.0, 10.0)]
    found = _crowding([3, 1, 4, 2], goals)
    assert found == {
        1: INF,
        4: INF,
        2: pytest.approx((4 - 1) / 5 + (50 - 20) / 40),
        3: pytest.approx((6 - 2) / 5 + (30 - 10) / 40),
    }
    assert _crowding([0], goals) == {0: INF}
    # Where all are equal in one, or do not fit, that one says nothing.
    assert _crowding([0, 1, 2], [(1.0, 1.0), (1.0, 2.0), (1.0, 5.0)])[1] == 1.0
    assert _crowding([0, 1, 2], [(INF, 1.0), (INF, 2.0), (INF, 5.0)])[1] == 1.0
    assert _crowding([0, 1, 2], [(1.0, 3.0), (2.0, 3.0), (5.0, 3.0)])[1] in (1.0, INF)


SPACE = example_space()


def asked() -> list[Trial]:
    ask = Evaluator(SPACE.workload, SPACE.cluster, space=SPACE)
    return ask.many(SPACE[i] for i in range(0, len(SPACE), len(SPACE) // 9))


def test_parents_win_tournaments_of_two() -> None:
    alive = asked()
    places = _places(alive)
    moved = 0
    for seed in range(60):
        child = module._child(SPACE, alive, places, Random(seed))
        again = Random(seed)
        parents = []
        for _ in range(2):
            pair = again.choices(range(len(alive)), k=2)
            parents.append(alive[min(pair, key=lambda i: places[i])].plan)
        plain = SPACE.nearest(crossed(*map(point_of, parents), again))
        moves = SPACE.neighbours(plain)
        moved += child != plain
        assert child == (again.choice(moves) if again.random() < 0.7 else plain)
    assert 30 < moved < 54


def test_the_least_dominated_and_least_crowded_live_on(monkeypatch: pytest.MonkeyPatch) -> None:
    parents: list[list[Trial]] = []
    children: list[Plan] = []
    told_of: list[list[Plan]] = []
    own = module._child

    def child(
        space: Space, alive: Sequence[Trial], places: Sequence[tuple[int, float]], rng: Random
    ) -> Plan:
        assert list(places) == _places(alive)
        parents.append(list(alive))
        children.append(own(space, alive, places, rng))
        return children[-1]

    def noted(children: list[Plan], *given: Any) -> list[Plan]:
        told_of.append(repaired(children, *given))
        return told_of[-1]

    monkeypatch.setattr(module, "_child", child)
    monkeypatch.setattr(module, "repaired", noted)
    report = run_planner("nsga2", SPACE, budget=Budget(evaluations=24 * 4), seed=6)
    assert report.num_asked == 96
    known = {t.plan: t for t in report.trials}
    ask = Evaluator(SPACE.workload, SPACE.cluster, space=SPACE)
    alive = [known[plan] for plan in promising(SPACE, ask, Random(6))]
    for number in range(3):
        some = slice(24 * number, 24 * (number + 1))
        assert all(given == alive for given in parents[some])
        given, told = children[some], told_of[number]
        for child, plan in zip(given, told, strict=True):
            assert plan == child or ask.bounds([child]) == [INF]
        together = list(dict.fromkeys([*(t.plan for t in alive), *told]))
        places = _places([known[plan] for plan in together])
        order = sorted(range(len(together)), key=lambda i: places[i])
        alive = [known[together[i]] for i in order[:24]]
