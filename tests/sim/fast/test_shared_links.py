"""Shared links: the event loops equal the SimPy engine, and never beat links of their own."""

import inspect
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parplan.errors import ParplanError
from parplan.sim.costs import StageCosts
from parplan.sim.engine.engine import simulate
from parplan.sim.fast import fifo_loop
from parplan.sim.fast.fast import fast_many_ps
from parplan.sim.fast.shared_link_evaluator import contended_many_ps, contended_run
from parplan.sim.schedules import make_schedule
from parplan.sim.step.shared_links import FULL_RATE, SharedLinks, fair_rates, node_links
from parplan.sim.step.sweep import compiled_loops
from parplan.sim.step.tape import lower
from parplan.sim.ticks import PS_PER_S, stage_ticks
from tests.sim.engine.random_lists import random_costs, random_lists

COMPILED = (False,) if compiled_loops(load=True) is None else (False, True)

seeds = st.integers(0, 2**32)


def random_links(seed: int, ranks: int, sharing: str) -> SharedLinks:
    """Some pairs on shared links, some on their own."""
    draw = random.Random(seed)
    number = draw.randint(1, 3)
    links = {
        (a, b): tuple(
            draw.randrange(number) for _ in range(1 if sharing == "fifo" else draw.randint(1, 2))
        )
        for a in range(ranks)
        for b in range(ranks)
        if a != b and draw.random() < 0.8
    }
    return SharedLinks(links=links, sharing=sharing)  # type: ignore[arg-type]


def check_equal(seed: int, sharing: str, blocking: bool) -> None:
    schedule, stages = random_lists(seed)
    costs = [random_costs(seed + i, stages) for i in range(2)]
    links = random_links(seed, len(schedule), sharing)
    runs = [simulate(schedule, own, blocking_sends=blocking, links=links) for own in costs]
    steps = [round(run.step_s * PS_PER_S) for run in runs]
    tape, ticks = lower(schedule), stage_ticks(costs)
    for compiled in COMPILED:
        ends = contended_many_ps(tape, ticks, links, blocking_sends=blocking, compiled=compiled)
        assert ends.tolist() == steps
    assert contended_run(schedule, costs[0], links, blocking_sends=blocking) == runs[0]
    bound = fast_many_ps(tape, ticks, blocking_sends=blocking, kernel="python")
    assert (bound <= steps).all()


@pytest.mark.parametrize("sharing", ["fifo", "fair"])
@given(seed=seeds, blocking=st.booleans())
@settings(deadline=None, max_examples=200)
def test_random_lists_are_played_alike(sharing: str, seed: int, blocking: bool) -> None:
    check_equal(seed, sharing, blocking)


@pytest.mark.parametrize("sharing", ["fifo", "fair"])
@pytest.mark.parametrize("uniform", [False, True])
def test_nodes_that_share_an_interface(sharing: str, uniform: bool) -> None:
    schedule = make_schedule("interleaved-1f1b", 4, 8, 2)
    links = node_links(4, 2, sharing)  # type: ignore[arg-type]
    for seed in range(20):
        costs = random_costs(seed, 8)
        if uniform:  # Ties everywhere.
            costs = [costs[0]] * 8
        run = simulate(schedule, costs, links=links)
        assert contended_run(schedule, costs, links) == run
        assert run.step_s >= simulate(schedule, costs).step_s


@pytest.mark.parametrize("sharing", ["fifo", "fair"])
@given(seed=seeds)
@settings(deadline=None, max_examples=50)
def test_a_shared_link_for_each_pair_is_a_link_of_its_own(sharing: str, seed: int) -> None:
    schedule, stages = random_lists(seed)
    costs, ranks = random_costs(seed, stages), range(len(schedule))
    pairs = [(a, b) for a in ranks for b in ranks if a != b]
    links = SharedLinks(links={pair: (i,) for i, pair in enumerate(pairs)}, sharing=sharing)  # type: ignore[arg-type]
    assert simulate(schedule, costs, links=links) == simulate(schedule, costs)


@pytest.mark.parametrize(("sharing", "second", "step"), [("fifo", 9, 26), ("fair", 12, 26)])
def test_two_pairs_over_one_link_by_hand(sharing: str, second: int, step: int) -> None:
    # Stages 0 and 1 send for 4 s. First come, first served: both activations for stage 1 pass
    # until 9 s, those for stage 2 until 17 s. Fair: the second for stage 1 has the link to itself
    # from 5 to 6 s, then half of it. The gradients take a link of their own, 4 s each.
    costs = [
        StageCosts(forward_s=1, input_gradient_s=0, weight_gradient_s=0, send_s=4 * (s < 2))
        for s in range(3)
    ]
    links = SharedLinks(links={(0, 1): (0,), (1, 2): (0,)}, sharing=sharing)  # type: ignore[arg-type]
    schedule = make_schedule("gpipe", 3, 2)
    run = simulate(schedule, costs, links=links)
    assert [e.start_s for e in run.events if e.name == "1F1"] == [second]
    assert run.step_s == step
    assert simulate(schedule, costs).step_s == 23


MUTATIONS = (
    ("max(now, free[here]), ranks + here", "now, ranks + here"),
    ("and ahead > place", "and ahead < place"),
    ("free[here] = now + send[stage[place]]", "free[here] = now"),
    ("now = max(now, arrival[needed])", "pass"),
    ("ready[rank_of[place]] = arrived", "pass"),
    ("begin = max(now, free[here])", "begin = now"),
)


def check_many() -> None:
    for seed in range(300):
        check_equal(seed, "fifo", seed % 2 == 0)


def test_the_loop_as_it_is_passes_where_faults_are_noticed() -> None:
    check_many()


@pytest.mark.parametrize(("old", "new"), MUTATIONS)
def test_a_fault_in_the_loop_is_noticed(
    old: str, new: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = inspect.getsource(fifo_loop.simulate_fifo)
    assert old in source
    scope = dict(fifo_loop.simulate_fifo.__globals__)
    exec(source.replace(old, new), scope)
    monkeypatch.setattr(fifo_loop, "simulate_fifo", scope["simulate_fifo"])
    with pytest.raises(AssertionError):
        check_many()


def test_fair_rates() -> None:
    third = FULL_RATE // 3
    # Three pairs over link 0; the one of them that crosses link 1 leaves the rest to the fourth.
    links = {(0, 1): (0,), (0, 2): (0,), (0, 3): (0, 1), (4, 3): (1,)}
    rates = fair_rates(links, links)
    assert rates == {
        (0, 1): third,
        (0, 2): third,
        (0, 3): third,
        (4, 3): FULL_RATE - third,
    }


def test_links_that_cannot_be_are_refused() -> None:
    with pytest.raises(ParplanError, match="crosses 2; fifo allows one"):
        SharedLinks(links={(0, 1): (0, 1)})
    with pytest.raises(ParplanError, match="links from 0 on"):
        SharedLinks(links={(0, 1): ()})
