"""What a timeline says of each event beside its name: bytes, link, where the time goes, memory."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np

from parplan.hardware.network.cluster import Cluster
from parplan.sim.analysis.event_words import EventWords
from parplan.sim.analysis.time_split import action_causes
from parplan.sim.cost_model.communication import Communication
from parplan.sim.cost_model.stage_costs import message_bytes, ops_of
from parplan.sim.cost_model.stages import stages_of
from parplan.sim.memory.over_time import MemoryOverTime, memory_over_time
from parplan.sim.memory.peak import stage_needs
from parplan.sim.prediction.predict import CompiledPlan
from parplan.sim.run import Event, Run
from parplan.sim.workload import Workload

MOST_POINTS = 20_000
"""Of the memory of all ranks; of more, the highest of each stretch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TimelineFacts:
    """Facts of the events of one plan."""

    shares: Mapping[tuple[int, str], Mapping[str, str]]
    """By stage and kind of action: what its time goes to, in percent."""
    messages: Mapping[str, Any]
    """Bytes and link of a message between stages."""
    exchanges: Mapping[tuple[int, str], Mapping[str, Any]]
    """By stage and name: bytes, ranks and link of an exchange within an action."""
    memory: tuple[MemoryOverTime, ...]

    def of(self, event: Event, words: EventWords) -> Mapping[str, Any]:
        """The arguments of an event."""
        if words.to_stage is not None:
            return self.messages
        if words.stage is None or not words.op:
            return {}
        if words.exchange:
            return self.exchanges.get((words.stage, words.exchange), {})
        return self.shares.get((words.stage, words.op), {})


def facts_of(
    workload: Workload, cluster: Cluster, compiled: CompiledPlan, run: Run
) -> TimelineFacts:
    """The facts of `run`, the result of simulating `compiled`."""
    plan, links = compiled.plan, Communication(cluster, compiled.plan)
    exchanges: dict[tuple[int, str], dict[str, Any]] = {}
    for stage, layers in enumerate(stages_of(workload, plan)):
        for ops, _, _ in ops_of(workload, plan, layers):
            for op in ops:
                for exchange in (*op.forward_exchanges, *op.backward_exchanges):
                    size, distance = links.groups[exchange.group]
                    exchanges[stage, f"{op.name} {exchange.op}"] = {
                        "bytes": round(exchange.num_bytes),
                        "ranks": size,
                        "link": link_words(cluster, (size - 1) * distance),
                    }
    needs = stage_needs(workload, plan)
    sent = message_bytes(workload, plan)
    memory = memory_over_time(compiled.schedule, needs, run, message_bytes=sent)
    most = max(8, MOST_POINTS // len(memory))
    return TimelineFacts(
        shares={
            key: _percent(causes)
            for key, causes in action_causes(workload, cluster, compiled).items()
        },
        messages={
            "bytes": round(sent),
            "link": link_words(cluster, plan.tensor_parallel * plan.replicas),
        },
        exchanges=exchanges,
        memory=tuple(thinned(one, most) for one in memory),
    )


def link_words(cluster: Cluster, distance: int) -> str:
    """The link to the rank so many places away, in words; the slowest that its messages cross."""
    if distance < 1 or distance >= cluster.num_accelerators:
        return ""
    link = cluster.link_between(0, distance)
    inside = distance < cluster.tiers[0].size
    return f"{'within a node' if inside else 'between nodes'}, {link.bytes_per_s / 1e9:.4g} GB/s"


def thinned(memory: MemoryOverTime, most: int) -> MemoryOverTime:
    """The same with at most `most` points: the highest of each stretch, so that the peak stays."""
    count = len(memory.times_s)
    if count <= most:
        return memory
    edges = np.linspace(0, count, most + 1).astype(int)
    total = memory.total_bytes
    kept = np.array([a + int(total[a:b].argmax()) for a, b in pairwise(edges)])
    return replace(
        memory,
        times_s=memory.times_s[kept],
        activation_bytes=memory.activation_bytes[kept],
        message_bytes=memory.message_bytes[kept],
    )


def _percent(causes: Mapping[str, float]) -> dict[str, str]:
    whole_s = sum(causes.values()) or 1.0
    return {
        part: f"{seconds / whole_s:.1%}"
        for part, seconds in sorted(causes.items(), key=lambda item: -item[1])
        if seconds > 0.0005 * whole_s
    }
