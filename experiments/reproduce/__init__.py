"""Experiments of publications, one file each, by the name that `parplan reproduce` takes."""

import importlib

from parplan.errors import unknown_name
from parplan.experiments.reproduce.experiment import Experiment

NAMES = (
    "ap",
    "megatron-weak-scaling",
    "megatron-zero3",
    "megatron-tensor-pipeline",
    "megatron-micro-batch",
    "megatron-interleaving",
    "megatron-scatter-gather",
    "korthikanti-time",
    "korthikanti-memory",
    "zero-bubble",
    "bubble-curves",
    "zero-memory",
    "strong-scaling",
    "mlperf-scaling",
    "bloom-layouts",
    "stage-partition",
    "calculon-validation",
    "vtrain-validation",
)
"""Every experiment; `megatron-zero3` is in `megatron_zero3.py`."""


def experiment(name: str) -> Experiment:
    """The experiment of that name; raises `ParplanError` that suggests near names."""
    if name not in NAMES:
        raise unknown_name("experiment", name, NAMES)
    module = importlib.import_module(f"{__name__}.{name.replace('-', '_')}")
    found = module.EXPERIMENT
    assert isinstance(found, Experiment)
    return found
