"""Barriers between ranks."""

from dataclasses import dataclass, field

import simpy

from parplan.sim.engine.links import Arrival

Key = tuple[int, str, int]


@dataclass(slots=True)
class Barriers:
    """An event for all that meet, which happens when the last one is ready."""

    env: simpy.Environment
    _there: dict[Key, tuple[Arrival, int, int]] = field(default_factory=dict)

    def join(self, key: Key, ready: int, count: int) -> Arrival:
        """Announce that one of `count` that meet at `key` will be ready at `ready`.

        The event's value is the time at which all are.
        """
        event, came, latest = self._there.pop(key, (Arrival(self.env), 0, 0))
        came, latest = came + 1, max(latest, ready)
        if came == count:
            event.at(int(self.env.now), latest)
        else:
            self._there[key] = event, came, latest
        return event
