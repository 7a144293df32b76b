"""What becomes of a setting that is known but not read."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

HARMLESS: tuple[Any, ...] = (None, False, 0, -1, "", "none", "auto", "no", "disabled", [])
"""Values by which a setting is not set, or leaves the choice to the software."""


@dataclass(frozen=True, slots=True)
class NotModelled:
    """A known setting that bears on a step in a way that is not modelled."""

    assumed: str
    """What is assumed instead."""
    usual: tuple[Any, ...] = ()
    """Values with which that is what happens, beside `HARMLESS`."""


def by_reason(reasons: Mapping[str, str]) -> dict[str, str]:
    """Reasons by name, of names by reason: `{"logging": "metrics.* job.*"}`."""
    return {name: reason for reason, names in reasons.items() for name in names.split()}
