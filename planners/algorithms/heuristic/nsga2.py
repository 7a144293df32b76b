"""NSGA-II for step time and memory.

Deb, Pratap, Agarwal and Meyarivan 2002 (IEEE Trans. Evol. Comput. 6(2)).

Of two plans that fit, one dominates that is no worse in both and better in one; a plan that fits
dominates one that does not, and of two that do not, the one that needs less memory (section VI).
Parents are chosen by rank, then by crowding; crossover and mutation are those of `evolution`.
"""

from collections.abc import Sequence
from random import Random

from parplan.planners.algorithms.heuristic.evolution import (
    MUTATED,
    POPULATION,
    crossed,
    promising,
    repaired,
)
from parplan.planners.costs.trial import Trial
from parplan.planners.search.evaluator import IMPOSSIBLE, Evaluator
from parplan.planners.spaces.space import Space, point_of
from parplan.sim.plan import Plan

Goals = tuple[float, float]


def nsga2(space: Space, evaluate: Evaluator, rng: Random) -> None:
    """Generations, of which the least dominated and the least crowded live on."""
    alive = _distinct(evaluate.many(promising(space, evaluate, rng)))
    while True:
        places = _places(alive)
        children = [_child(space, alive, places, rng) for _ in range(POPULATION)]
        children = repaired(children, space, evaluate, rng)
        together = _distinct([*alive, *evaluate.many(children)])
        best = _places(together)
        order = sorted(range(len(together)), key=lambda i: best[i])
        alive = [together[i] for i in order[:POPULATION]]


def _distinct(trials: Sequence[Trial]) -> list[Trial]:
    return list({trial.plan: trial for trial in trials}.values())


def _child(
    space: Space, alive: Sequence[Trial], places: Sequence[tuple[int, float]], rng: Random
) -> Plan:
    one, two = (
        alive[min(rng.choices(range(len(alive)), k=2), key=lambda i: places[i])].plan
        for _ in range(2)
    )
    child = space.nearest(crossed(point_of(one), point_of(two), rng))
    moves = space.neighbours(child)
    return rng.choice(moves) if moves and rng.random() < MUTATED else child


def _places(trials: Sequence[Trial]) -> list[tuple[int, float]]:
    """(rank, minus crowding distance) of each, by which less is better."""
    goals = [_goals(trial) for trial in trials]
    places: list[tuple[int, float]] = [(0, 0.0)] * len(trials)
    left, rank = list(range(len(trials))), 0
    while left:
        front = [i for i in left if not any(_dominates(goals[j], goals[i]) for j in left)]
        for i, distance in _crowding(front, goals).items():
            places[i] = rank, -distance
        members = set(front)
        left = [i for i in left if i not in members]
        rank += 1
    return places


def _goals(trial: Trial) -> Goals:
    """Step time and memory; plans that do not fit are behind all that do."""
    memory = max(trial.memory_bytes, default=IMPOSSIBLE)
    return (IMPOSSIBLE if trial.step_s is None else trial.step_s), memory


def _dominates(one: Goals, two: Goals) -> bool:
    if one[0] == IMPOSSIBLE or two[0] == IMPOSSIBLE:
        return one[0] < two[0] or (one[0] == two[0] and one[1] < two[1])
    return one != two and one[0] <= two[0] and one[1] <= two[1]


def _crowding(front: Sequence[int], goals: Sequence[Goals]) -> dict[int, float]:
    """Distance between the neighbours of each plan on the front; infinite for its ends."""
    distance = dict.fromkeys(front, 0.0)
    for goal in range(2):
        order = sorted(front, key=lambda i: goals[i][goal])
        low, high = goals[order[0]][goal], goals[order[-1]][goal]
        distance[order[0]] = distance[order[-1]] = IMPOSSIBLE
        if not low < high < IMPOSSIBLE:
            continue
        for before, here, after in zip(order, order[1:], order[2:], strict=False):
            distance[here] += (goals[after][goal] - goals[before][goal]) / (high - low)
    return distance
