"""Collectives played step by step on real buffers, as the closed forms say they go.

A message takes `latency_s` and occupies the port out of its sender for its bytes' time.
"""

import heapq

import numpy as np

LATENCY_S, BYTES_PER_S = 2e-6, 1e9


def step_s(num_bytes: float) -> float:
    return LATENCY_S + num_bytes / BYTES_PER_S


def ring_all_reduce(num_ranks: int, num_bytes: float) -> tuple[float, np.ndarray]:
    """All ranks at once: n - 1 steps that add, n - 1 that copy. Returns time and the buffers."""
    n = num_ranks
    buffers = np.arange(n)[:, None] * 100.0 + np.arange(n)[None, :]
    seconds = 0.0
    for step in range(2 * (n - 1)):
        sent = [(r, (r - step) % n) for r in range(n)]
        values = [buffers[r, block] for r, block in sent]
        for (r, block), value in zip(sent, values, strict=True):
            if step < n - 1:
                buffers[(r + 1) % n, block] += value
            else:
                buffers[(r + 1) % n, block] = value
        seconds += step_s(num_bytes / n)
    return seconds, buffers


def halving_doubling_all_reduce(num_ranks: int, num_bytes: float) -> tuple[float, np.ndarray]:
    """Recursive halving, then doubling; ranks beyond a power of two hand over and wait."""
    n, p = num_ranks, 2 ** int(np.log2(num_ranks))
    buffers = np.arange(n)[:, None] * 100.0 + np.arange(p)[None, :]
    seconds = 0.0
    for extra in range(p, n):
        buffers[extra - p] += buffers[extra]
    seconds += step_s(num_bytes) if n > p else 0.0
    own = dict.fromkeys(range(p), (0, p))
    distance = p // 2
    while distance:
        old = buffers.copy()
        for rank in range(p):
            low, high = own[rank]
            middle = (low + high) // 2
            own[rank] = (low, middle) if not rank & distance else (middle, high)
            kept = slice(*own[rank])
            buffers[rank, kept] += old[rank ^ distance, kept]
        seconds += step_s(num_bytes * distance / p)
        distance //= 2
    distance = 1
    while distance < p:
        old, before = buffers.copy(), dict(own)
        for rank in range(p):
            theirs = before[rank ^ distance]
            buffers[rank, slice(*theirs)] = old[rank ^ distance, slice(*theirs)]
            own[rank] = min(before[rank][0], theirs[0]), max(before[rank][1], theirs[1])
        seconds += step_s(num_bytes * distance / p)
        distance *= 2
    for extra in range(p, n):
        buffers[extra] = buffers[extra - p]
    seconds += step_s(num_bytes) if n > p else 0.0
    return seconds, buffers


def tree_parents(num_ranks: int) -> list[int | None]:
    """A binary tree whose leaves are the odd ranks, with rank 0 above its root."""
    parents: list[int | None] = [None]
    for rank in range(1, num_ranks):
        bit = rank & -rank
        parent = (rank ^ bit) | (bit << 1)
        parents.append(parent if parent < num_ranks else rank ^ bit)
    return parents


def double_tree_all_reduce(num_ranks: int, num_bytes: float, pieces: int) -> float:
    """Two trees, one the mirror of the other, each with half the bytes in `pieces` pieces.

    Ports send what is ready first. Returns when the last rank has the last piece.
    """
    n = num_ranks
    trees = [tree_parents(n), [None] * n]
    for rank, parent in enumerate(trees[0]):
        trees[1][n - 1 - rank] = None if parent is None else n - 1 - parent
    children = [[[c for c in range(n) if t[c] == r] for r in range(n)] for t in trees]
    waiting = {
        (t, r, p): len(children[t][r]) for t in (0, 1) for r in range(n) for p in range(pieces)
    }
    free, ready, last = [0.0] * n, [], 0.0
    piece_s = num_bytes / 2 / pieces / BYTES_PER_S

    def arrived(time: float, tree: int, rank: int, piece: int, up: bool) -> None:
        parent = trees[tree][rank]
        if up and parent is not None:
            heapq.heappush(ready, (time, piece, tree, rank, parent, True))
            return
        for child in children[tree][rank]:
            heapq.heappush(ready, (time, piece, tree, rank, child, False))

    for (tree, rank, piece), missing in waiting.items():
        if not missing:
            arrived(0.0, tree, rank, piece, True)
    while ready:
        time, piece, tree, rank, target, up = heapq.heappop(ready)
        if free[rank] > time:
            heapq.heappush(ready, (free[rank], piece, tree, rank, target, up))
            continue
        free[rank] = time + piece_s
        there = free[rank] + LATENCY_S
        last = max(last, there)
        if up:
            waiting[tree, target, piece] -= 1
        if not up or not waiting[tree, target, piece]:
            arrived(there, tree, target, piece, up)
    return last
