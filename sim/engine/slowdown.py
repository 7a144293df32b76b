"""Computation slowed down by concurrent messages of the same rank.

While a rank sends or receives at least one message (from its entering to its leaving the link), its
computations advance by `slow_rate(slowdown)` instead of `FULL_RATE` parts for every picosecond; a
computation of d picoseconds is done when d x `FULL_RATE` parts are, at the next whole picosecond.
"""

from functools import partial

import simpy

from parplan.sim.engine.links import Process, call_after
from parplan.sim.step.shared_links import FULL_RATE, Pair, slow_rate


class Pace:
    """Current speed of every rank."""

    def __init__(self, env: simpy.Environment, num_ranks: int, slowdown: float) -> None:
        self.env, self.slow = env, slow_rate(slowdown)
        self.messages = [0] * num_ranks
        self.changes = [simpy.Event(env) for _ in range(num_ranks)]

    def occupied(self, pair: Pair, start: int, end: int) -> None:
        """A message between two ranks will be on its link from `start` to `end`."""
        if end > start:
            now = int(self.env.now)
            for time, change in ((start, 1), (end, -1)):
                call_after(self.env, time - now, 1, partial(self._add, pair, change))

    def _add(self, pair: Pair, change: int) -> None:
        for rank in pair:
            self.messages[rank] += change
            self.changes[rank].succeed()
            self.changes[rank] = simpy.Event(self.env)

    def compute(self, rank: int, duration: int) -> Process:
        """A computation of so many picoseconds at full speed; returns when it is done."""
        left = duration * FULL_RATE
        while left > 0:
            rate, since = self.slow if self.messages[rank] else FULL_RATE, int(self.env.now)
            done = simpy.Timeout(self.env, -(-left // rate))
            yield done | self.changes[rank]
            left -= rate * (int(self.env.now) - since)
        return int(self.env.now)
