"""Progress of long work, on stderr."""

import sys
import time
from typing import TextIO


class ProgressLine:
    """Called with (what, done, of); speaks after `quiet_s`, then every `every_s` at most.

    On a terminal it rewrites one line; elsewhere it writes lines, less often.
    """

    def __init__(self, stream: TextIO | None = None, quiet_s: float = 2.0) -> None:
        self.stream = sys.stderr if stream is None else stream
        self.on_terminal = self.stream.isatty()
        self.every_s = 0.2 if self.on_terminal else 10.0
        self._next_s = time.monotonic() + quiet_s
        self._open_line = False

    def __call__(self, what: str, done: int, of: int) -> None:
        """Report that `done` of `of` are done."""
        finished = done == of and self._open_line
        if time.monotonic() < self._next_s and not finished:
            return
        self._next_s = time.monotonic() + self.every_s
        text = f"parplan: {what}: {done} of {of}"
        self.stream.write(f"\r{text}" if self.on_terminal else f"{text}\n")
        self._open_line = self.on_terminal and not finished
        if self.on_terminal and finished:
            self.stream.write("\n")
        self.stream.flush()

    def end(self) -> None:
        """Leave the line that is being rewritten, where there is one."""
        if self._open_line:
            self.stream.write("\n")
            self.stream.flush()
            self._open_line = False
