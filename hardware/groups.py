"""Groups of ranks that communicate, and the link that limits a ring over them."""

from parplan.hardware.cluster import Cluster, Link
from parplan.hardware.errors import ParplanError


def ring_link(cluster: Cluster, size: int, stride: int) -> Link:
    """The link as a ring over the ranks 0, stride, ..., (size - 1) x stride sees it.

    A ring leaves each unit of a tier (a package, a node) once, and may use the links of all its
    members there: its bandwidth over the tier is the members' sum. The slowest tier that the ring
    crosses limits it, the outermost one gives the latency.
    """
    if size < 1 or stride < 1 or (size - 1) * stride >= cluster.num_accelerators:
        raise ParplanError(
            f"a group of {size} ranks at a distance of {stride} does not fit in "
            f"{cluster.num_accelerators} accelerators"
        )
    bytes_per_s, latency_s, unit = float("inf"), 0.0, 1
    for tier in cluster.tiers:
        members = min(size, max(1, unit // stride))
        if members == size and size > 1 and unit > 1:
            break
        if tier.size > stride or size == 1:
            bytes_per_s = min(bytes_per_s, tier.link.bytes_per_s * members)
            latency_s = tier.link.latency_s
        unit = tier.size
    return Link(latency_s=latency_s, bytes_per_s=bytes_per_s)
