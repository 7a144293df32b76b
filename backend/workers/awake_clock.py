"""A clock that does not run while the machine, or this process, is paused."""

import time
from collections.abc import Callable


class AwakeClock:
    """Seconds in which this process ran, by looks at least every `most_s` seconds.

    Between two looks at most `most_s` seconds count: what is longer is a suspended machine, or a
    process that was stopped and goes on. Steps of the wall clock do not matter.
    """

    def __init__(self, most_s: float, now: Callable[[], float] = time.monotonic) -> None:
        self._most_s, self._now = most_s, now
        self._last_s, self._awake_s = now(), 0.0

    def now_s(self) -> float:
        """The seconds so far."""
        now_s = self._now()
        self._awake_s += min(max(0.0, now_s - self._last_s), self._most_s)
        self._last_s = now_s
        return self._awake_s

    def skip(self) -> None:
        """Leave out the time since the last look."""
        self._last_s = self._now()
