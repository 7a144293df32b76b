"""A clock that does not run while the machine, or this process, is paused; a count of pauses."""

import threading
import time
from collections.abc import Callable

PAUSE_S = 2.0
"""A process that nothing of has run for so long was stopped, frozen, or its machine suspended."""

LOOK_EVERY_S = 0.25


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


def seconds_since_start() -> float:
    """Seconds of the machine, with those in which it was suspended where the system knows them."""
    clock = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
    return time.clock_gettime(clock)


class Pauses:
    """The pauses of this process of at least `least_s` seconds, by the looks of a thread.

    What is measured meanwhile is no measurement.
    """

    def __init__(
        self, least_s: float = PAUSE_S, now: Callable[[], float] = seconds_since_start
    ) -> None:
        self._least_s, self._now = least_s, now
        self._lock = threading.Lock()
        self._last_s, self._count = now(), 0
        self._ended = threading.Event()
        threading.Thread(target=self._keep_looking, daemon=True).start()

    def count(self) -> int:
        """How many there were until now."""
        with self._lock:
            now_s = self._now()
            self._count += now_s - self._last_s >= self._least_s
            self._last_s = now_s
            return self._count

    def close(self) -> None:
        """Look no more."""
        self._ended.set()

    def _keep_looking(self) -> None:
        while not self._ended.wait(LOOK_EVERY_S):
            self.count()
