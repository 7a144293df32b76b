"""How messages of the SimPy engine get from rank to rank."""

import simpy


class Arrival(simpy.Event):
    """The arrival of one message: an event that its sender schedules, and its receiver awaits."""

    def after(self, delay_ps: int) -> None:
        """Let it happen `delay_ps` from now, as SimPy's own `Timeout` does when it is made."""
        self._ok = True
        self._value = None
        self.env.schedule(self, delay=delay_ps)


class OwnLinks:
    """A link for each directed pair of ranks, which carries one message at a time.

    `start` and `end`: when the message of each action entered and left its link.
    """

    def __init__(self, env: simpy.Environment, num_actions: int) -> None:
        self.env = env
        self.start = [0] * num_actions
        self.end = [0] * num_actions
        self._free_ps: dict[tuple[int, int], int] = {}

    def send(
        self,
        pair: tuple[int, int],
        place: int,
        now: int,
        send_ps: int,
        latency_ps: int,
        arrival: Arrival,
    ) -> None:
        """Send the message of the action at `place`; it arrives `latency_ps` after it left."""
        start = max(now, self._free_ps.get(pair, 0))
        end = start + send_ps
        self._free_ps[pair] = self.end[place] = end
        self.start[place] = start
        arrival.after(end - now + latency_ps)
