"""What searches by chance do step by step, in a world of numbers with a scripted generator."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from random import Random
from typing import Any

import pytest

from parplan.planners.algorithms.heuristic import annealing as annealing_module
from parplan.planners.algorithms.heuristic import evolution as evolution_module
from parplan.planners.algorithms.heuristic import mcmc as mcmc_module
from parplan.planners.algorithms.heuristic.annealing import annealing
from parplan.planners.algorithms.heuristic.as_ap import as_ap
from parplan.planners.algorithms.heuristic.beam import beam
from parplan.planners.algorithms.heuristic.evolution import crossed, evolution
from parplan.planners.algorithms.heuristic.grid import grid
from parplan.planners.algorithms.heuristic.mcmc import mcmc
from parplan.planners.algorithms.heuristic.random_search import random_search
from parplan.planners.ap.candidates import ap_candidates
from parplan.planners.conformance import example_space
from parplan.planners.costs.trial import Trial
from parplan.planners.search.evaluator import Evaluator, Stopped
from parplan.planners.spaces.options import Options
from parplan.planners.spaces.space import point_of
from parplan.sim.plan import Plan


class World:
    """A space of numbers, each next to those one less and one more, and what is asked of it."""

    def __init__(self, size: int, energy: Callable[[int], float], budget: int = 10**6) -> None:
        self.size, self.of, self.budget = size, energy, budget
        self.batches: list[list[int]] = []
        self.drawn: list[int] = []
        self.walked: list[int] = []
        self.share_used = 0.0
        self.dimensions = {"some": (1, 2), "one": (1,)}

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, number: int) -> int:
        assert 0 <= number < self.size
        return number

    def sample(self, rng: Random) -> int:
        self.drawn.append(rng.randrange(self.size))
        return self.drawn[-1]

    def neighbours(self, plan: int) -> list[int]:
        self.walked.append(plan)
        return [n for n in (plan - 1, plan + 1) if 0 <= n < self.size]

    def __call__(self, plan: int) -> Trial:
        return self.many([plan])[0]

    def many(self, plans: Iterable[int]) -> list[Trial]:
        asked = list(plans)
        if len(self.asked) + len(asked) > self.budget:
            raise Stopped
        self.batches.append(asked)
        return [Trial(plan=p, step_s=self.of(p)) for p in asked]  # type: ignore[arg-type]

    def bounds(self, plans: Sequence[int]) -> list[float]:
        """Of every seventh plan it is known that it does not fit."""
        return [math.inf if plan % 7 == 0 else 0.5 * self.of(plan) for plan in plans]

    def energy(self, trial: Trial) -> float:
        return trial.step_s or 0.0

    @property
    def asked(self) -> list[int]:
        return [plan for batch in self.batches for plan in batch]


class Script(Random):
    """Draws that were written down; choices take the first, draws of plans the given ones."""

    def __init__(self, draws: Iterable[float], starts: Sequence[int] = (0,), at: int = 0) -> None:
        super().__init__(0)
        self.draws: Iterator[float] = iter(draws)
        self.starts = iter(starts)
        self.at = at

    def random(self) -> float:
        try:
            return next(self.draws)
        except StopIteration:
            raise Stopped from None

    def randrange(self, *args: int) -> int:  # type: ignore[override]
        try:
            return next(self.starts)
        except StopIteration:
            raise Stopped from None

    def choice(self, values: Sequence[Any]) -> Any:
        return values[self.at % len(values)]


def ran(planner: Callable[..., None], world: World, rng: Random) -> World:
    with pytest.raises(Stopped):
        planner(world, world, rng)
    return world


FAR_OFF = 0.99
"""A draw that takes one move, not two, and no worse plan."""


@pytest.mark.parametrize(
    ("share", "slower"), [(0.0, 0.3), (1.0, 0.003), (0.5, math.sqrt(0.3 * 0.003))]
)
def test_annealing_takes_a_worse_plan_once_in_e_times(share: float, slower: float) -> None:
    """What is worse by the temperature: 0.3 at first, 0.003 at last, geometric in between."""
    for draw, taken in ((math.exp(-1) - 1e-4, True), (math.exp(-1) + 1e-4, False)):
        world = World(9, lambda n: 4.0 if n == 4 else 4.0 + slower)
        world.share_used = share
        ran(annealing, world, Script([FAR_OFF, draw], [4], at=1))
        assert world.asked == [4, 5]
        assert world.walked == ([4, 5] if taken else [4])


def test_annealing_goes_downhill_without_a_draw_and_sometimes_two_moves_at_once() -> None:
    down = ran(annealing, World(9, lambda n: float(n)), Script([FAR_OFF] * 3, [5]))
    assert down.asked == [5, 4, 3, 2]
    assert down.walked == [5, 4, 3, 2]
    for draw, reached in ((0.299, 3), (0.301, 4)):
        assert ran(annealing, World(9, lambda n: n), Script([draw], [5])).asked == [5, reached]


def test_annealing_begins_elsewhere_when_it_does_not_get_on() -> None:
    """Refused moves count, and moves to plans that are as good; any other begins the count anew."""
    stuck = World(9, lambda n: 0.0 if n == 4 else 99.0)
    ran(annealing, stuck, Script([FAR_OFF] * 240, [4, 4]))
    assert stuck.asked == ([4] + [3] * annealing_module.PATIENCE) * 2
    level = World(99, lambda n: 1.0)
    ran(annealing, level, Script([FAR_OFF] * 60, [98, 5]))
    assert level.asked == [*range(98, 98 - 61, -1), 5]
    # One better plan after 59 that are as good: it goes on for 60 more.
    once = World(200, lambda n: 1.0 if n > 140 else 0.5)
    ran(annealing, once, Script([FAR_OFF] * 119, [199, 7]))
    assert once.asked == [*range(199, 79, -1), 7]
    alone = World(1, lambda n: 1.0)
    assert ran(annealing, alone, Script([], [0, 0])).asked == [0, 0]


def chain(monkeypatch: pytest.MonkeyPatch, world: World, rng: Script) -> World:
    def proposal(space: World, plan: int, names: list[str], rng: Random) -> int:
        assert names == ["some"]
        return max(0, plan - 1)

    monkeypatch.setattr(mcmc_module, "_proposal", proposal)
    return ran(mcmc, world, rng)


def test_a_chain_takes_a_plan_that_is_5_percent_worse_once_in_e_times(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for draw, then in ((math.exp(-1) - 1e-4, 3), (math.exp(-1) + 1e-4, 4)):
        world = World(9, lambda n: 2.0 if n == 5 else 2.05)
        chain(monkeypatch, world, Script([FAR_OFF, draw, FAR_OFF], [5]))
        assert world.asked == [5, 4, then]
    for draw, reached in ((0.499, 3), (0.501, 4)):
        down = World(9, lambda n: float(n))
        assert chain(monkeypatch, down, Script([draw], [5])).asked == [5, reached]


def test_a_chain_that_finds_nothing_better_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """Better than all before, not than the plan before: the count goes on through ups and downs."""
    patience = mcmc_module.PATIENCE
    level = World(400, lambda n: 1.0)
    chain(monkeypatch, level, Script([FAR_OFF] * patience, [300, 7]))
    assert level.asked == [*range(300, 300 - patience - 1, -1), 7]
    # Worse, which is taken, then back to what it was: nothing new.
    wavy = World(400, lambda n: 1.0 + 0.01 * (n % 2))
    draws = [draw for n in range(patience // 2) for draw in (FAR_OFF, 0.0, FAR_OFF)]
    chain(monkeypatch, wavy, Script(draws, [300, 7]))
    assert wavy.asked == [*range(300, 300 - patience - 1, -1), 7]
    once = World(400, lambda n: 1.0 if n > 250 else 0.5)
    chain(monkeypatch, once, Script([FAR_OFF] * 150, [300, 7]))
    assert once.asked == [*range(300, 149, -1), 7]


def test_a_proposal_replaces_one_dimension() -> None:
    space = example_space()
    names = [name for name, values in space.dimensions.items() if len(values) > 1]
    rng, replaced = Random(2), set()
    for _ in range(60):
        plan = space.sample(rng)
        state = rng.getstate()
        other = mcmc_module._proposal(space, plan, names, rng)
        rng.setstate(state)
        name = rng.choice(names)
        value = rng.choice(space.dimensions[name])
        assert other in space
        replaced.add(name)
        # What is drawn goes before all else that the plan had.
        found = point_of(other).values()[name]
        if name in ("tensor_parallel", "num_stages", "batch_per_device"):
            assert found == value
    assert replaced == set(names)


def test_a_beam_tries_all_neighbours_of_the_best_four() -> None:
    """Until none of them is better; then it begins elsewhere."""
    world = World(400, lambda n: abs(n - 200.5) + 3 * (n % 3), budget=400)
    ran(beam, world, Random(5))
    batches, begins = iter(world.batches), 0
    for first in batches:
        assert first == world.drawn[16 * begins : 16 * (begins + 1)]
        assert len(first) == 16
        begins += 1
        kept = sorted(dict.fromkeys(first), key=world.of)[:4]
        seen = set(first)
        while True:
            near = dict.fromkeys(n for k in kept for n in (k - 1, k + 1) if 0 <= n < 400)
            wanted = [n for n in near if n not in seen]
            asked = next(batches, None)
            if asked is None:
                break
            assert asked == wanted
            seen.update(wanted)
            before, kept = kept, sorted([*kept, *wanted], key=world.of)[:4]
            if before == kept:
                break
    assert begins > 2


@pytest.mark.parametrize(
    ("size", "batches"),
    [
        (11, [[0], [8], [4], [2, 6, 10], [1, 3, 5, 7, 9]]),
        (8, [[0], [4], [2, 6], [1, 3, 5, 7]]),
        (1, [[0]]),
        (2, [[0], [1]]),
    ],
)
def test_a_grid_is_halved_until_all_is_asked(size: int, batches: list[list[int]]) -> None:
    world = World(size, float)
    grid(world, world, Random(0))  # type: ignore[arg-type]
    assert world.batches == batches


def test_random_search_asks_about_everything_once() -> None:
    worlds = [World(75, float) for _ in range(3)]
    for seed, world in zip((1, 1, 2), worlds, strict=True):
        random_search(world, world, Random(seed))  # type: ignore[arg-type]
        assert list(map(len, world.batches)) == [32, 32, 11]
        assert sorted(world.asked) == list(range(75))
        assert world.asked != list(range(75))
    assert worlds[0].asked == worlds[1].asked != worlds[2].asked


def test_generations_keep_the_best(monkeypatch: pytest.MonkeyPatch) -> None:
    """24 live on, of these and 24 children, of which 2 are drawn by chance. The first are 12 with
    the least bounds of 384 drawn ones, and 12 others; children that cannot fit move."""
    parents: list[list[int]] = []

    def child(space: World, ask: World, alive: list[Trial], rng: Random) -> int:
        parents.append([t.plan for t in alive])  # type: ignore[misc]
        return len(parents) % 90

    monkeypatch.setattr(evolution_module, "_child", child)
    world = World(900, lambda n: abs(n - 300.2), budget=24 * 4)
    ran(evolution, world, Random(3))
    assert list(map(len, world.batches)) == [24] * 4
    alive = world.batches[0]
    drawn = list(dict.fromkeys(world.drawn[: 24 * 16]))
    may = [plan for plan in drawn if plan % 7]
    assert alive[:12] == sorted(may, key=world.of)[:12]
    assert alive[12:] == [plan for plan in may if plan not in alive[:12]][:12]
    for number, batch in enumerate(world.batches[1:]):
        assert all(p == alive for p in parents[22 * number : 22 * (number + 1)])
        for place, plan in enumerate(batch[:22], 22 * number + 1):
            assert plan == place % 90 if place % 90 % 7 else abs(plan - place % 90) == 1
        assert batch[22:] == world.drawn[24 * 16 + 2 * number : 24 * 16 + 2 + 2 * number]
        alive = sorted(dict.fromkeys([*alive, *batch]), key=world.of)[:24]


def test_a_child_is_of_the_best_of_three_and_three() -> None:
    space = example_space()
    ask = Evaluator(space.workload, space.cluster, space=space)
    alive = ask.many(space[i] for i in range(0, len(space), len(space) // 9))

    class Tournaments(Random):
        shown: list[Trial]

        def choices(self, values: Sequence[Trial], *, k: int) -> list[Trial]:  # type: ignore[override]
            found = super().choices(values, k=k)
            assert (values, k) == (alive, 3)
            self.shown += [min(found, key=ask.energy)]
            return found

    moved = 0
    for seed in range(60):
        rng = Tournaments(seed)
        rng.shown = []
        child = evolution_module._child(space, ask, alive, rng)
        one, two = (t.plan for t in rng.shown)
        again = Random(seed)
        for _ in range(2):
            again.choices(alive, k=3)
        plain = space.nearest(crossed(point_of(one), point_of(two), again))
        moves = space.neighbours(plain)
        moved += child != plain
        wanted = again.choice(moves) if again.random() < 0.7 else plain
        assert child == wanted
    assert 30 < moved < 54


def test_each_dimension_of_a_child_is_of_one_parent() -> None:
    space = example_space()
    one, two = point_of(space[0]), point_of(space[-1])
    differing = [name for name, value in two.values().items() if one.values()[name] != value]
    counts = dict.fromkeys(differing, 0)
    rng = Random(4)
    for _ in range(200):
        child = crossed(one, two, rng).values()
        for name, value in child.items():
            assert value in (one.values()[name], two.values()[name])
            if name in counts:
                counts[name] += value == two.values()[name]
    assert len(counts) > 3
    assert all(70 < count < 130 for count in counts.values())
    assert crossed(one, two, Script([0.499] * 20)) == two
    assert crossed(one, two, Script([0.501] * 20)) == one


def test_aps_candidates_are_asked_about_once_each() -> None:
    space = example_space()
    asked: list[list[Plan]] = []

    class Ask:
        def many(self, plans: Iterable[Plan]) -> None:
            asked.append(list(plans))

    as_ap(space, Ask(), Random(0))  # type: ignore[arg-type]
    ((*plans,),) = asked
    assert len(plans) == len(set(plans)) == 5
    degrees = {p.num_stages for p in ap_candidates(space.workload, space.cluster, Options())}
    assert {plan.num_stages for plan in plans} == {min(d, 4) for d in degrees}
    assert all(plan in space and plan.tensor_parallel == 1 for plan in plans)
