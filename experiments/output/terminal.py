"""Colours and bars of text for the terminal."""

import os
import sys
from collections.abc import Sequence
from contextvars import ContextVar
from typing import TextIO

FILLS = "█▓▒░"
"""Of the parts of a bar, which differ without colours as well."""

PLAIN_FILLS = "#=+-"
"""Where the stream cannot encode the others."""

COLOURS = (36, 33, 35, 32)

WIDTH = 50
"""Characters of a bar."""


WITH_COLOUR: ContextVar[bool] = ContextVar("WITH_COLOUR", default=True)
"""Whether commands may use colours."""


class Style:
    """How a stream is written to: with colours or not, in what it can encode."""

    def __init__(self, *, colour: bool = False, fills: str = FILLS) -> None:
        self.colour = colour
        self.fills = fills

    def bold(self, text: str) -> str:
        """What matters most."""
        return f"\x1b[1m{text}\x1b[0m" if self.colour else text

    def dim(self, text: str) -> str:
        """What matters least."""
        return f"\x1b[2m{text}\x1b[0m" if self.colour else text

    def part(self, number: int, text: str) -> str:
        """A piece of a bar, or its name."""
        colour = COLOURS[number % len(COLOURS)]
        return f"\x1b[{colour}m{text}\x1b[0m" if self.colour else text

    def bar(self, shares: Sequence[float]) -> str:
        """Shares that sum to 1, beside each other."""
        ends = [round(WIDTH * sum(shares[: i + 1])) for i in range(len(shares))]
        widths = [end - start for start, end in zip([0, *ends], ends, strict=False)]
        return "".join(self.part(i, self.mark(i) * width) for i, width in enumerate(widths))

    def mark(self, number: int) -> str:
        """The letter of a part of a bar."""
        return self.fills[number % len(self.fills)]


def style_of(stream: TextIO | None = None) -> Style:
    """The style of a stream (stdout): colours on a terminal, unless they are unwanted.

    A stream with colours has `styled`, which writes them (`parplan.experiments.terminal`).
    """
    stream = sys.stdout if stream is None else stream
    terminal = hasattr(stream, "styled") and stream.isatty() and os.environ.get("TERM") != "dumb"
    colour = terminal and WITH_COLOUR.get() and not os.environ.get("NO_COLOR")
    try:
        FILLS.encode(getattr(stream, "encoding", None) or "utf-8")
    except (LookupError, UnicodeEncodeError):
        return Style(colour=colour, fills=PLAIN_FILLS)
    return Style(colour=colour)
