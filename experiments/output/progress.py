"""Progress of long work, on stderr: a bar with the time left on a terminal, else lines."""

import sys
import time
from typing import TYPE_CHECKING, Any, TextIO

from parplan.experiments.output.terminal import WITH_COLOUR

if TYPE_CHECKING:
    from rich.progress import TaskID


class ProgressLine:
    """Called with (what, done, of); speaks after `quiet_s`, then every `every_s` at most."""

    def __init__(self, stream: TextIO | None = None, quiet_s: float = 2.0) -> None:
        self.stream = sys.stderr if stream is None else stream
        self.on_terminal = self.stream.isatty()
        self.every_s = 0.2 if self.on_terminal else 10.0
        self._next_s = time.monotonic() + quiet_s
        self._bar: _Bar | None = None

    def __call__(self, what: str, done: int, of: int) -> None:
        """Report that `done` of `of` are done."""
        finished = done == of and self._bar is not None
        if time.monotonic() < self._next_s and not finished:
            return
        self._next_s = time.monotonic() + self.every_s
        if not self.on_terminal:
            self.stream.write(f"parplan: {what}: {done} of {of}\n")
            self.stream.flush()
            return
        if self._bar is None:
            self._bar = _Bar(self.stream)
        self._bar.show(what, done, of)
        if finished:
            self.end()

    def end(self) -> None:
        """Leave the bar as it is, where there is one."""
        if self._bar is not None:
            self._bar.leave()
            self._bar = None


class _Bar:
    """A bar of rich for each thing that is being done, one below the other."""

    def __init__(self, stream: TextIO) -> None:
        # Imported here: short work needs no bar, and starts faster without.
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
        )

        # rich writes control characters, which a stream that is cleaned would escape.
        own: Any = getattr(stream, "stream", stream)
        self._bars: Progress = Progress(
            TextColumn("parplan: {task.description}"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TimeRemainingColumn(elapsed_when_finished=True),
            console=Console(
                file=own,
                markup=False,
                highlight=False,
                no_color=None if WITH_COLOUR.get() else True,
            ),
            auto_refresh=False,
        )
        self._tasks: dict[str, TaskID] = {}
        self._bars.start()

    def show(self, what: str, done: int, of: int) -> None:
        """Draw `done` of `of`."""
        if what not in self._tasks:
            self._tasks[what] = self._bars.add_task(what, total=of)
        self._bars.update(self._tasks[what], completed=done, total=of)
        self._bars.refresh()

    def leave(self) -> None:
        """End with what is drawn."""
        self._bars.stop()
