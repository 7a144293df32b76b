"""Import sources by name."""

from parplan.experiments.interop.dialects.from_megatron_yaml import from_any_megatron, from_bridge
from parplan.experiments.interop.dialects.from_neox import from_neox
from parplan.experiments.interop.dialects.from_torchtitan_python import from_any_torchtitan
from parplan.experiments.interop.dialects.hf_training import (
    from_axolotl,
    from_llama_factory,
    from_transformers,
)
from parplan.experiments.interop.importers.from_accelerate import from_accelerate
from parplan.experiments.interop.importers.from_deepspeed import from_deepspeed
from parplan.experiments.interop.importers.imported import Importer

SOURCES: dict[str, Importer] = {
    "megatron": from_any_megatron,
    "megatron-bridge": from_bridge,
    "deepspeed": from_deepspeed,
    "torchtitan": from_any_torchtitan,
    "accelerate": from_accelerate,
    "transformers": from_transformers,
    "llama-factory": from_llama_factory,
    "axolotl": from_axolotl,
    "gpt-neox": from_neox,
    "nemo": from_bridge,
}
