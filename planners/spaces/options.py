"""Search options of Advanced Parallelization, also as PARPLAN_* variables."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from parplan._strict import check_within
from parplan.errors import ParplanError

Auto = Literal["auto"]

PREFIX = "PARPLAN_"

SCHEDULES = ("gpipe", "1f1b")
"""The schedules that a search by these options tries; constraints may name others."""


MOST_WORKERS = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """AP's arguments (`num_stages` to `mixed_precision`) and settings, with AP's defaults."""

    pipeline_parallel: bool = True
    """Whether a pipeline may be used."""
    num_stages: int | Auto = "auto"
    """Maximum number of pipeline stages."""
    num_micro_batches: int | Auto = "auto"
    """Micro-batches of the pipeline."""
    activation_recomputation: bool | Auto = "auto"
    """Whether activations are recomputed."""
    distribute_parameter: bool | Auto = "auto"
    """Whether parameters and gradients are distributed over the devices."""
    mixed_precision: bool = True
    """bfloat16 with fp32 master parameters; otherwise fp32."""
    memory_ratio_percent: float = 80.0
    """Share of each device's memory that a plan may use."""
    workers: int = 16
    """Candidates are compiled by at most so many workers."""
    detailed_log: int = 0
    """0: AP's lines alone; 1: every candidate as well; 2: these in `autoconfig_log.dump`."""

    def __post_init__(self) -> None:
        for name in ("num_stages", "num_micro_batches"):
            value = getattr(self, name)
            if value != "auto" and (isinstance(value, bool) or not isinstance(value, int)):
                raise ParplanError(f"{name}: expected 'auto' or a number, got {value!r}")
            if value != "auto" and value < 1:
                raise ParplanError(f"{name}: must be at least 1, got {value}")
        for name in ("activation_recomputation", "distribute_parameter"):
            value = getattr(self, name)
            if value != "auto" and not isinstance(value, bool):
                raise ParplanError(f"{name}: expected 'auto', True or False, got {value!r}")
        for name in ("pipeline_parallel", "mixed_precision"):
            if not isinstance(getattr(self, name), bool):
                raise ParplanError(f"{name}: expected True or False, got {getattr(self, name)!r}")
        if not 0 < self.memory_ratio_percent <= 100:
            raise ParplanError(
                f"memory ratio: must be above 0 and at most 100 per cent, "
                f"got {self.memory_ratio_percent}"
            )
        check_within(self, {"workers": (1, MOST_WORKERS)})
        if self.detailed_log not in (0, 1, 2):
            raise ParplanError(f"detailed log: must be 0, 1 or 2, got {self.detailed_log}")

    @property
    def memory_ratio(self) -> float:
        """The share of memory as a fraction of 1."""
        return self.memory_ratio_percent / 100


def settings_from_environment(environment: Mapping[str, str] | None = None) -> dict[str, float]:
    """The settings that the environment overrides, as keyword arguments of `Options`.

    `PARPLAN_MEMORY_USAGE_CORRECTION_RATIO` (per cent), `PARPLAN_MAX_PARALLEL_COMPILE_THREADS`,
    `PARPLAN_DETAILED_LOG`. Raises `ParplanError` naming the variable for anything but a number.
    """
    environment = os.environ if environment is None else environment
    names: dict[str, tuple[str, type[int] | type[float]]] = {
        "MEMORY_USAGE_CORRECTION_RATIO": ("memory_ratio_percent", float),
        "MAX_PARALLEL_COMPILE_THREADS": ("workers", int),
        "DETAILED_LOG": ("detailed_log", int),
    }
    settings: dict[str, float] = {}
    for name, (field, kind) in names.items():
        text = environment.get(PREFIX + name)
        if text is None:
            continue
        try:
            value = kind(text)
            Options(**{field: value})  # type: ignore[arg-type]
        except ValueError:
            raise ParplanError(f"{PREFIX}{name}: expected a number, got {text!r}") from None
        except ParplanError as error:
            raise ParplanError(f"{PREFIX}{name}: {error}") from None
        settings[field] = value
    return settings


def switched_off(environment: Mapping[str, str] | None = None) -> bool:
    """Whether `PARPLAN_ENABLE_ADVANCED_PARALLELIZATION` is 0 (1 or unset: False)."""
    environment = os.environ if environment is None else environment
    name = f"{PREFIX}ENABLE_ADVANCED_PARALLELIZATION"
    value = environment.get(name, "1")
    if value not in ("0", "1"):
        raise ParplanError(f"{name}: expected 0 or 1, got {value!r}")
    return value == "0"
