"""Experiments of publications, one file each, by the name that `parplan reproduce` takes."""

import importlib

from parplan.errors import unknown_name
from parplan.experiments.reproduce.experiment import Experiment

MODULES = {
    "ap": "ap",
    "megatron-weak-scaling": "megatron.weak_scaling",
    "megatron-zero3": "megatron.zero3",
    "megatron-tensor-pipeline": "megatron.tensor_pipeline",
    "megatron-micro-batch": "megatron.micro_batch",
    "megatron-interleaving": "megatron.interleaving",
    "megatron-scatter-gather": "megatron.scatter_gather",
    "korthikanti-time": "korthikanti_time",
    "korthikanti-memory": "korthikanti_memory",
    "zero-bubble": "pipelines.zero_bubble",
    "bubble-curves": "pipelines.bubble_curves",
    "zero-memory": "zero_memory",
    "strong-scaling": "pipelines.strong_scaling",
    "mlperf-scaling": "pipelines.mlperf_scaling",
    "fsdp-scaling": "fsdp_scaling",
    "bloom-layouts": "pipelines.bloom_layouts",
    "stage-partition": "pipelines.stage_partition",
    "calculon-validation": "calculon_validation",
    "vtrain-validation": "vtrain_validation",
}
"""The module of every experiment, below this package."""
NAMES = tuple(MODULES)


def experiment(name: str) -> Experiment:
    """The experiment of that name; raises `ParplanError` that suggests near names."""
    if name not in NAMES:
        raise unknown_name("experiment", name, NAMES)
    module = importlib.import_module(f"{__name__}.{MODULES[name]}")
    found = module.EXPERIMENT
    assert isinstance(found, Experiment)
    return found
