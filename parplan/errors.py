"""User-facing errors: one line with what was given, what is allowed, and where."""

import difflib
from collections.abc import Iterable


class ParplanError(Exception):
    """A mistake in what parplan was given; the root of all its exceptions."""


class RunFailedError(ParplanError):
    """The input was right, but what it started failed (a worker died, a measurement hung)."""


def unknown_name(kind: str, given: str, known: Iterable[str]) -> ParplanError:
    """An error for a name that is not in `known`, which suggests the nearest ones."""
    names = sorted(known)
    near = difflib.get_close_matches(given.lower(), names, n=3, cutoff=0.4)
    hint = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(names)}"
    return ParplanError(f"unknown {kind} {given!r}; {hint}")
