"""Import sources by name."""

from parplan.experiments.interop.importers.from_accelerate import from_accelerate
from parplan.experiments.interop.importers.from_deepspeed import from_deepspeed
from parplan.experiments.interop.importers.from_megatron import from_megatron
from parplan.experiments.interop.importers.from_torchtitan import from_torchtitan
from parplan.experiments.interop.importers.imported import Importer

SOURCES: dict[str, Importer] = {
    "megatron": from_megatron,
    "deepspeed": from_deepspeed,
    "torchtitan": from_torchtitan,
    "accelerate": from_accelerate,
}
