"""Closed-form times of collectives, by algorithm and links of the group.

Time = launch + steps x latency + bytes / bandwidth for each algorithm that can do the collective
(`parplan.hardware.collectives.work`) and each protocol; a library is taken to choose the fastest.
The low-latency protocol sends a flag with every few bytes instead of waiting for memory, so that a
step costs less and bandwidth is lost (LL and LL128 of NCCL); the bandwidth protocol ("simple")
needs long messages to reach its bandwidth.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from parplan.errors import ParplanError
from parplan.hardware.collectives.group import Group, GroupLink
from parplan.hardware.collectives.work import OPS, CollectiveWork, work

PROTOCOLS = ("simple", "low-latency")

LIBRARY = ("ring", "tree", "in-switch", "direct")
"""The algorithms that NCCL and RCCL have, and the automatic choice is among. Others on request."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Collective:
    """A collective operation. `num_bytes` is the `size` of nccl-tests: see `collective_work`."""

    op: str
    num_bytes: float

    def __post_init__(self) -> None:
        if self.op not in OPS:
            raise ParplanError(f"collective {self.op!r} is not one of {', '.join(OPS)}")
        if self.num_bytes < 0:
            raise ParplanError(f"num_bytes: must not be negative, got {self.num_bytes}")


@dataclass(frozen=True, slots=True, kw_only=True)
class AlgorithmChoice:
    """The algorithm of a collective, and its time."""

    algorithm: str
    protocol: str
    seconds: float


def collective_s(
    collective: Collective, group: Group, algorithms: Collection[str] = LIBRARY
) -> float:
    """Seconds of `collective` by the fastest of `algorithms`; see `choose`."""
    return choose(collective, group, algorithms).seconds


def choose(
    collective: Collective, group: Group, algorithms: Collection[str] = LIBRARY
) -> AlgorithmChoice:
    """The fastest algorithm and protocol. One rank alone needs no time.

    Raises `ParplanError` when none of `algorithms` can do it, or for an unknown one.
    """
    if collective.op == "send_recv" and group.num_ranks > 2:
        raise ParplanError(f"send_recv: expected 2 ranks, got {group.num_ranks}")
    if group.num_ranks == 1:
        return AlgorithmChoice(algorithm="direct", protocol=PROTOCOLS[0], seconds=0.0)
    choices = list(_choices(collective, group, algorithms))
    if not choices:
        raise ParplanError(
            f"{collective.op} over {group.num_ranks} ranks in {group.num_nodes} nodes: none of "
            f"{', '.join(algorithms)} can do it"
        )
    return min(choices, key=lambda choice: choice.seconds)


def bus_factor(op: str, num_ranks: int) -> float:
    """Bus bandwidth over algorithm bandwidth: the share of its size that a rank has to send.

    Source: nccl-tests, doc/PERFORMANCE.md. Raises `ParplanError` for an unknown op.
    """
    if op not in OPS:
        raise ParplanError(f"collective {op!r} is not one of {', '.join(OPS)}")
    if op in ("broadcast", "send_recv"):
        return 1.0
    return (2 if op == "all_reduce" else 1) * (num_ranks - 1) / num_ranks


def algorithm_bandwidth(num_bytes: float, seconds: float) -> float:
    """Bytes per second of a collective of size `num_bytes` ("algbw")."""
    return num_bytes / seconds


def bus_bandwidth(collective: Collective, num_ranks: int, seconds: float) -> float:
    """Bytes per second as a link sees them, comparable over ops and ranks ("busbw")."""
    factor = bus_factor(collective.op, num_ranks)
    return factor * algorithm_bandwidth(collective.num_bytes, seconds)


def _choices(
    collective: Collective, group: Group, algorithms: Collection[str]
) -> Iterator[AlgorithmChoice]:
    for algorithm in algorithms:
        done = work(
            collective.op, algorithm, group.num_ranks, group.num_nodes, collective.num_bytes
        )
        if done is None:
            continue
        for protocol in PROTOCOLS:
            if available(group, algorithm, protocol):
                seconds = work_s(done, group, collective.op, algorithm, protocol)
                yield AlgorithmChoice(algorithm=algorithm, protocol=protocol, seconds=seconds)


def available(group: Group, algorithm: str, protocol: str) -> bool:
    """Whether the links of `group` support `algorithm` by `protocol`."""
    links = [link for link in (group.inside, group.across) if link is not None]
    if algorithm == "in-switch" and (
        group.inside is None or group.inside.efficiency.switch_share is None or protocol != "simple"
    ):
        return False
    if algorithm == "ring" and any(link.bytes_per_s == 0 for link in links):
        return False
    # A link without a low-latency protocol is used as ever beside one that has it.
    return protocol == "simple" or any(
        link.efficiency.low_latency_step_latencies is not None for link in links
    )


def work_s(done: CollectiveWork, group: Group, op: str, algorithm: str, protocol: str) -> float:
    """Seconds that `done` takes over the links of `group`; its bytes may be numpy arrays."""
    seconds, transfers = 0.0, []
    for link, steps, num_bytes in (
        (group.inside, done.inside_steps, done.inside_bytes),
        (group.across, done.across_steps, done.across_bytes),
    ):
        if link is None:
            continue
        seconds += link.efficiency.launch_us * 1e-6 + steps * _step_s(link, protocol)
        bytes_per_s = link.bytes_per_s
        if algorithm != "ring" and link.tree_bytes_per_s is not None:
            bytes_per_s = link.tree_bytes_per_s
        if algorithm == "in-switch" and link is group.inside:
            bytes_per_s *= _switch_gain(group)
        transfers.append(num_bytes / (bytes_per_s * _share(link, op, num_bytes, protocol)))
    if len(transfers) < 2:
        return seconds + transfers[0]
    a, b = transfers
    return seconds + ((a + b + abs(a - b)) / 2 if done.overlapped else a + b)


def _step_s(link: GroupLink, protocol: str) -> float:
    e = link.efficiency
    if protocol == "low-latency" and e.low_latency_step_latencies is not None:
        return e.low_latency_step_latencies * link.latency_s
    return e.step_latencies * link.latency_s


def _share(link: GroupLink, op: str, num_bytes: float, protocol: str) -> float:
    """The share of the bandwidth that `num_bytes` per rank (per node) reach."""
    e = link.efficiency
    share = e.bandwidth_share * (e.all_to_all_share if op == "all_to_all" else 1.0)
    if protocol == "low-latency" and e.low_latency_step_latencies is not None:
        return share * e.low_latency_share
    # A ramp has no share for no bytes; that much more than none makes it a very small one.
    ramp: float = (1 + e.ramp_bytes / (num_bytes + 1e-9)) ** e.ramp_power
    return share / ramp


def _switch_gain(group: Group) -> float:
    """Bandwidth inside the switch over that of the links; it grows with the ranks of a node.

    The factor (m - 1) / m is empirical: it explains published sweeps over 4 to 8 ranks.
    """
    assert group.inside is not None
    e, m = group.inside.efficiency, group.num_ranks / group.num_nodes
    assert e.switch_share is not None
    return e.switch_share / e.bandwidth_share * (m - 1) / m
