"""Tables of text."""

from collections.abc import Sequence
from contextvars import ContextVar
from typing import Any

PRINTED: ContextVar[list[list[list[str]]] | None] = ContextVar("PRINTED", default=None)
"""Gets the rows of tables that are made, where they are wanted as data as well."""


WORDS = "; "
"""Between words of a list in one cell, which may have spaces in them; numbers have a space."""


def in_a_cell(value: Any) -> Any:
    """A value as a cell of a CSV file: lists in one piece, nothing for what is not set."""
    if isinstance(value, tuple | list):
        return (WORDS if any(isinstance(v, str) for v in value) else " ").join(map(str, value))
    return "" if value is None else value


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
