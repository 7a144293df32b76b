"""Number of edge-disjoint rings in a mesh of links."""

from collections.abc import Iterator, Sequence


def num_rings(links: Sequence[Sequence[int]], places: Sequence[int]) -> int:
    """The most rings over all of `places` that use no direction of a link twice.

    `links[i][j]` links join places i and j, each with two directions. A ring of three or more
    places can be run both ways at once; two places have a ring per link. Tries all sets of rings:
    for the eight places of a node, not for more than ten.
    """
    if len(places) < 2:
        return 0
    if len(places) == 2:
        return links[places[0]][places[1]]
    free = {(a, b): links[a][b] for a in places for b in places}
    return 2 * _most_rings(free, list(_rings(links, places)), 0)


def _rings(links: Sequence[Sequence[int]], places: Sequence[int]) -> Iterator[tuple[int, ...]]:
    """Every ring once: from the first place, in the direction of its smaller neighbour."""
    paths: list[tuple[int, ...]] = [(places[0],)]
    while paths:
        path = paths.pop()
        if len(path) == len(places):
            if links[path[-1]][path[0]] and path[1] < path[-1]:
                yield path
            continue
        paths += [(*path, b) for b in places if b not in path and links[path[-1]][b]]


def _most_rings(
    free: dict[tuple[int, int], int], rings: Sequence[tuple[int, ...]], first: int
) -> int:
    best = 0
    bound = sum(free.values()) // 2 // len(rings[0]) if rings else 0
    for index in range(first, len(rings)):
        edges = _edges(rings[index])
        if all(free[edge] for edge in edges):
            _use(free, edges, -1)
            best = max(best, 1 + _most_rings(free, rings, index))
            _use(free, edges, +1)
        if best == bound:
            break
    return best


def _edges(ring: tuple[int, ...]) -> list[tuple[int, int]]:
    return list(zip(ring, (*ring[1:], ring[0]), strict=True))


def _use(free: dict[tuple[int, int], int], edges: list[tuple[int, int]], change: int) -> None:
    for a, b in edges:
        free[a, b] += change
        free[b, a] += change
