"""Detection of out-of-memory failures. Imports no torch."""

import contextlib
from collections.abc import Iterator

CPU_WORDS = "DefaultCPUAllocator: can't allocate memory"
"""What torch's `RuntimeError` says on a CPU; on a GPU it has a class of its own."""


class RanOutOfMemoryError(Exception):
    """This process ran out of memory."""

    def __init__(self, place: int) -> None:
        super().__init__(place)
        self.place = place
        """Of the plan that it worked on."""


@contextlib.contextmanager
def noticing(place: int) -> Iterator[None]:
    """Raise `RanOutOfMemoryError` where the body, for the plan at `place`, runs out of it."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        on_gpu = type(error).__name__ == "OutOfMemoryError"
        if on_gpu or isinstance(error, MemoryError) or CPU_WORDS in str(error):
            raise RanOutOfMemoryError(place) from error
        raise
