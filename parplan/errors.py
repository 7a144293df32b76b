"""User-facing errors: one line with what was given, what is allowed, and where."""

import difflib
from collections.abc import Iterable

MOST_CHARACTERS = 1500
"""Of a message; the middle of a longer one is left out."""


class ParplanError(Exception):
    """A mistake in what parplan was given; the root of all its exceptions.

    As text it is one line of at most `MOST_CHARACTERS`, without control characters.
    """

    def __str__(self) -> str:
        return one_line(super().__str__())


class RunFailedError(ParplanError):
    """The input was right, but what it started failed (a worker died, a measurement hung)."""


def unknown_name(kind: str, given: str, known: Iterable[str]) -> ParplanError:
    """An error for a name that is not in `known`, which suggests the nearest ones."""
    names = sorted(known)
    near = difflib.get_close_matches(given[:200].lower(), names, n=3, cutoff=0.4)
    hint = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(names)}"
    return ParplanError(f"unknown {kind} {short(given)}; {hint}")


def one_line(text: str) -> str:
    """The text with escapes in place of what a terminal obeys, and without its middle if long."""
    if len(text) > MOST_CHARACTERS:
        end = MOST_CHARACTERS // 3
        left_out = len(text) - MOST_CHARACTERS
        text = f"{text[: MOST_CHARACTERS - end]} [... {left_out} characters ...] {text[-end:]}"
    return printable(text)


def printable(text: str, keep: str = "") -> str:
    """The text with escapes in place of the characters that a terminal obeys, but for `keep`."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in keep else repr(c)[1:-1] for c in text)


def short(value: object, most: int = 200) -> str:
    """The `repr` of a value for a message; cut where it is long, whatever the value is."""
    try:
        text = repr(value)
    except Exception:  # A whole number of thousands of digits, deep nesting, a `repr` that fails.
        return f"a value of type {type(value).__name__} that is too long to show"
    return text if len(text) <= most else f"{text[: most - 3]}..."
