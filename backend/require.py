"""Errors for missing optional packages, with what to install. Imports none of them."""

import importlib.util

from parplan.errors import ParplanError


def require_torch(what: str) -> None:
    """Raise `ParplanError` without torch; `what` begins the line: `executing plans`."""
    if importlib.util.find_spec("torch") is None:
        raise ParplanError(f"{what} needs torch: pip install 'parplan[torch]'")
