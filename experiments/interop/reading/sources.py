"""Import sources by name."""

import re

from parplan.experiments.interop.dialects.from_maxtext import from_maxtext
from parplan.experiments.interop.dialects.from_megatron_yaml import from_any_megatron, from_bridge
from parplan.experiments.interop.dialects.from_neox import from_neox
from parplan.experiments.interop.dialects.hf_training import (
    from_axolotl,
    from_llama_factory,
    from_transformers,
)
from parplan.experiments.interop.importers.from_accelerate import from_accelerate
from parplan.experiments.interop.importers.from_deepspeed import from_deepspeed
from parplan.experiments.interop.importers.imported import (
    Given,
    ImportedSettings,
    Importer,
)
from parplan.experiments.interop.python_files.from_recipe import from_recipe
from parplan.experiments.interop.python_files.from_torchtitan_python import from_any_torchtitan


def from_bridge_or_nemo(text: str, where: str, given: Given) -> ImportedSettings:
    """The settings of a recipe in Python, or of YAML."""
    python = where.endswith(".py") or re.search(
        r"^(from|import) +(megatron|nemo|torch)", text, re.M
    )
    return (from_recipe if python else from_bridge)(text, where, given)


SOURCES: dict[str, Importer] = {
    "megatron": from_any_megatron,
    "megatron-bridge": from_bridge_or_nemo,
    "deepspeed": from_deepspeed,
    "torchtitan": from_any_torchtitan,
    "accelerate": from_accelerate,
    "transformers": from_transformers,
    "llama-factory": from_llama_factory,
    "axolotl": from_axolotl,
    "gpt-neox": from_neox,
    "nemo": from_bridge_or_nemo,
    "maxtext": from_maxtext,
}
