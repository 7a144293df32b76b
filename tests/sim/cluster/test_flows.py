"""Messages over shared links: fair rates, order of service, and the engine's own shared links."""

import random
from collections.abc import Sequence
from dataclasses import replace

import pytest
import simpy
from hypothesis import given, settings
from hypothesis import strategies as st

from parplan.errors import ParplanError
from parplan.hardware.machines.presets import cluster_preset
from parplan.hardware.network.cluster import Link, Tier
from parplan.hardware.network.fabric import Fabric
from parplan.hardware.network.interconnect import LinkUse
from parplan.sim.cluster.flows import Flows, Sharing, max_min_rates
from parplan.sim.cluster.replica_links import ClusterLinks
from parplan.sim.cluster.whole_cluster import simulate_cluster
from parplan.sim.engine.engine import simulate
from parplan.sim.plan import Plan
from parplan.sim.prediction.predict import CompiledPlan
from parplan.sim.schedules import make_schedule
from parplan.sim.step.shared_links import node_links
from parplan.sim.ticks import PS_PER_S
from tests.sim.engine.random_lists import random_costs

Sent = tuple[int, Sequence[str], float]
"""When it is ready, its links, bytes."""


def use(name: str, bytes_per_s: float = 1e12, latency_s: float = 0.0) -> LinkUse:
    return LinkUse(name=name, bytes_per_s=bytes_per_s, latency_s=latency_s)


def play(
    sharing: Sharing, messages: Sequence[Sent], capacities: dict[str, float] | None = None
) -> list[int]:
    """When each message arrives; each has a channel of its own. A byte takes a picosecond."""
    env = simpy.Environment()
    flows, arrivals = Flows(env, sharing), [0] * len(messages)

    def sender(number: int) -> object:
        ready, names, num_bytes = messages[number]
        yield simpy.Timeout(env, ready)
        route = flows.route(use(name, (capacities or {}).get(name, 1e12)) for name in names)
        arrivals[number] = yield flows.send(route, num_bytes, number, (number,))

    for number in range(len(messages)):
        env.process(sender(number))
    env.run()
    return arrivals


@st.composite
def networks(draw: st.DrawFn) -> tuple[dict[int, list[int]], dict[int, int], list[int]]:
    capacities = draw(st.lists(st.integers(1000, 10**6), min_size=1, max_size=6))
    some_links = st.lists(st.integers(0, len(capacities) - 1), min_size=1, max_size=3, unique=True)
    links = dict(enumerate(draw(st.lists(some_links, min_size=1, max_size=8))))
    counts = {route: draw(st.integers(1, 3)) for route in links}
    return links, counts, capacities


@given(networks())
def test_rates_are_max_min_fair(
    network: tuple[dict[int, list[int]], dict[int, int], list[int]],
) -> None:
    links, counts, capacities = network
    rates = max_min_rates(links, counts, capacities)
    assert rates.keys() == links.keys()
    for route, own in links.items():
        # Each has a bottleneck: a link that is full, on which none is faster.
        for link in own:
            others = [r for r in links if link in links[r]]
            used = sum(rates[r] * counts[r] for r in others)
            assert used <= capacities[link]
            full = used > capacities[link] - sum(counts[r] for r in others)
            if full and rates[route] == max(rates[r] for r in others):
                break
        else:
            raise AssertionError(f"route {route} could be faster")


def test_rates_do_not_depend_on_what_goes_on_elsewhere() -> None:
    draw = random.Random(3)
    for _ in range(100):
        sets = []
        for part in (0, 5):
            routes = range(part, part + 4)
            sets.append({r: draw.sample(range(part, part + 5), draw.randint(1, 3)) for r in routes})
        capacities = [draw.randint(10, 100) for _ in range(10)]
        counts = {r: draw.randint(1, 3) for own in sets for r in own}
        apart = [max_min_rates(own, counts, capacities) for own in sets]
        assert max_min_rates(sets[0] | sets[1], counts, capacities) == apart[0] | apart[1]


def test_fair_sharing_by_hand() -> None:
    # The second is ready at 20, when the first has sent 20 of 60; both have half of the link until
    # the first is done at 100; the second, of 60, has 20 left then.
    assert play("fair", [(0, "a", 60), (20, "a", 60)]) == [100, 120]
    # A message over two links has the rate of the fuller one, and leaves the rest of the other.
    over_a: list[Sent] = [(0, "ab", 30), (0, "a", 30), (0, "a", 30), (0, "a", 30)]
    assert play("fair", [*over_a, (0, "b", 30)]) == [120, 120, 120, 120, 40]
    # Three share a rate that is no whole number: rounded down, so that they end a picosecond later.
    assert play("fair", [(0, "a", 30)] * 3) == [91, 91, 91]


def test_first_come_first_served_by_hand() -> None:
    assert play("fifo", [(0, "a", 60), (20, "a", 60)]) == [60, 120]
    # Ready at the same instant: in the order that is given.
    assert play("fifo", [(5, "a", 10), (5, "a", 10)]) == [15, 25]
    # The second waits for link a; the third, behind it on link b, waits as well.
    assert play("fifo", [(0, "a", 50), (1, "ab", 10), (2, "b", 10)]) == [50, 60, 70]


def test_the_thinnest_link_decides() -> None:
    for sharing in ("fair", "fifo"):
        assert play(sharing, [(0, "ab", 60)], {"a": 1e12, "b": 0.5e12}) == [120]


@given(st.integers(0, 2**32), st.sampled_from(["fair", "fifo"]))
@settings(deadline=None)
def test_messages_apart_do_not_disturb_each_other(seed: int, sharing: Sharing) -> None:
    draw = random.Random(seed)

    def some(names: str) -> list[Sent]:
        return [
            (draw.randint(0, 30), draw.sample(names, draw.randint(1, 3)), draw.randint(0, 50))
            for _ in range(draw.randint(1, 6))
        ]

    one, other = some("abcd"), some("wxyz")
    mixed = draw.sample([*one, *other], len(one) + len(other))
    # The order in which they are given decides ties, so it is kept.
    mixed.sort(key=lambda sent: [*one, *other].index(sent))
    together = play(sharing, mixed)
    assert together == play(sharing, one) + play(sharing, other)
    for (ready, _, num_bytes), arrival in zip(mixed, together, strict=True):
        assert arrival >= ready + num_bytes


@given(st.integers(0, 2**32))
@settings(deadline=None)
def test_a_link_is_never_idle_while_a_message_waits(seed: int) -> None:
    draw = random.Random(seed)
    messages: list[Sent] = [
        (draw.randint(0, 50), "a", draw.randint(1, 50)) for _ in range(draw.randint(1, 8))
    ]
    busy_until = 0
    for ready, _, num_bytes in sorted(messages):
        busy_until = max(busy_until, ready) + int(num_bytes)
    assert max(play("fifo", messages)) == busy_until
    # Shares are rounded down and ends up: a picosecond for each message at most.
    assert busy_until <= max(play("fair", messages)) <= busy_until + len(messages)


@pytest.mark.parametrize("sharing", ["fifo", "fair"])
def test_one_replica_over_two_interfaces_is_played_as_the_engine_plays_it(sharing: Sharing) -> None:
    # Two nodes of two pipeline ranks; what leaves one enters the other, so one link each way.
    schedule, links = make_schedule("interleaved-1f1b", 4, 8, 2), node_links(4, 2, sharing)
    like = cluster_preset("4xdgx-h100")
    fabric = Fabric(kind="rail-fat-tree", nominal_bytes_per_s=0.5e12, nics_per_node=1)
    lag = 6e-12
    tiers = (
        Tier(name="node", size=2, link=Link(latency_s=lag, bytes_per_s=1e12)),
        Tier(
            name="cluster",
            size=4,
            link=Link(latency_s=lag, bytes_per_s=0.5e12),
            fabric=fabric,
        ),
    )
    cluster = replace(like, num_nodes=2, tiers=tiers)
    delayed = 0
    for seed in range(40):
        num_bytes = random.Random(seed).randint(1, 20_000)
        costs = [
            replace(cost, send_s=num_bytes / PS_PER_S, latency_s=lag, forward_s=(seed + i) * 1e-10)
            for i, cost in enumerate(random_costs(seed, 8))
        ]
        compiled = CompiledPlan(
            plan=Plan(num_stages=4), schedule=schedule, costs=tuple(costs), memory=()
        )
        own = ClusterLinks(cluster=cluster, message_bytes=num_bytes, sharing=sharing)
        simulated = simulate_cluster(compiled, links=own).run_of(0)
        expected = simulate(schedule, costs, links=links)
        assert simulated.step_s == expected.step_s
        computed = [[e for e in run.events if e.stream != "send"] for run in (simulated, expected)]
        assert computed[0] == computed[1]
        delayed += expected.step_s > simulate(schedule, costs).step_s
    assert delayed > 10


def test_a_name_stands_for_one_link() -> None:
    flows = Flows(simpy.Environment())
    flows.route([use("a")])
    with pytest.raises(ParplanError, match=r"a: 2\.0 bytes per s, not 1000000000000"):
        flows.route([use("a", 2.0)])
