"""Fabrics: how the accelerators of a tier share its bandwidth."""

from dataclasses import dataclass
from math import prod

from parplan.errors import ParplanError

PORT_FABRICS = ("nvswitch", "die", "nvlink-bridge", "shared-memory")
"""Every accelerator has a port of its own into a switch that is never the bottleneck."""

MESH_FABRICS = ("nvlink-mesh", "xgmi-mesh", "roce-mesh")
"""Every pair of accelerators has links of its own."""

NETWORK_FABRICS = ("rail-fat-tree", "fat-tree", "dragonfly")
"""Nodes reach each other through network interfaces and switches."""

FABRICS = (*PORT_FABRICS, *MESH_FABRICS, "pcie", "torus", *NETWORK_FABRICS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fabric:
    """The links of a tier. Bandwidths are those of the data sheet, per direction."""

    kind: str
    nominal_bytes_per_s: float
    """Per accelerator: all its links of this tier, or its share of the node's interfaces."""
    peer_bytes_per_s: float | None = None
    """Meshes: what one pair of accelerators shares."""
    peer_links: tuple[tuple[int, ...], ...] = ()
    """Partial meshes: how many links of `peer_bytes_per_s` join place i to place j of a node."""
    nics_per_node: int = 0
    oversubscription: float = 1.0
    """Networks: bandwidth into the leaf switches over the bandwidth out of them."""
    nodes_per_switch: int = 1
    """Networks: nodes under one leaf switch (or in one dragonfly group)."""
    dims: tuple[int, ...] = ()
    """Tori: accelerators along each dimension."""
    efficiency_class: str | None = None
    """The constants of collectives that are meant for it; found by `kind` where not given."""

    def __post_init__(self) -> None:
        if self.kind not in FABRICS:
            raise ParplanError(f"fabric: {self.kind!r} is not one of {', '.join(FABRICS)}")
        if self.oversubscription < 1:
            raise ParplanError(f"oversubscription: must be 1 or more, got {self.oversubscription}")
        if self.nodes_per_switch < 1:
            raise ParplanError(f"nodes_per_switch: must be 1 or more, got {self.nodes_per_switch}")
        if self.peer_bytes_per_s is not None and self.peer_bytes_per_s <= 0:
            raise ParplanError(f"peer bandwidth: must be positive, got {self.peer_bytes_per_s}")
        _check_links(self.peer_links)


def _check_links(links: tuple[tuple[int, ...], ...]) -> None:
    for i, row in enumerate(links):
        if len(row) != len(links):
            raise ParplanError(f"peer_links[{i}]: expected {len(links)} numbers, got {len(row)}")
        for j, count in enumerate(row):
            if count < 0 or count != links[j][i] or (i == j and count):
                raise ParplanError(
                    f"peer_links[{i}][{j}]: must be symmetric, 0 on the diagonal and not negative"
                )


def torus_dims(size: int, num_dims: int) -> tuple[int, ...]:
    """The most even torus of `size` places, largest dimension first.

    Raises `ParplanError` for a size or number of dimensions below one.
    """
    if size < 1 or num_dims < 1:
        raise ParplanError(f"a torus of {size} places in {num_dims} dimensions cannot be")
    dims: list[int] = []
    for left in range(num_dims, 0, -1):
        rest = size // prod(dims)
        start = round(rest ** (1 / left))
        dims.append(next(d for d in range(start, 0, -1) if rest % d == 0) if left > 1 else rest)
    return tuple(sorted(dims, reverse=True))
