"""Tables of text."""

from collections.abc import Sequence
from contextvars import ContextVar

PRINTED: ContextVar[list[list[list[str]]] | None] = ContextVar("PRINTED", default=None)
"""Gets the rows of tables that are made, where they are wanted as data as well."""


def columns(rows: Sequence[Sequence[str]]) -> str:
    """The rows with their cells below each other."""
    printed = PRINTED.get()
    if printed is not None:
        printed.append([list(row) for row in rows])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True))
        for row in rows
    ]
    return "\n".join(line.rstrip() for line in lines)
