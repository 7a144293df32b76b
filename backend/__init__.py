"""Executes plans on stock PyTorch and measures machines. Importing it does not import torch."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from parplan.backend.script.one_line import enable_advanced_parallelization

__all__ = ["enable_advanced_parallelization"]


def __getattr__(name: str) -> Any:
    if name == "enable_advanced_parallelization":
        from parplan.backend.script.one_line import enable_advanced_parallelization

        return enable_advanced_parallelization
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
