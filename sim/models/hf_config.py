"""Models from `config.json` files of Hugging Face Transformers, read without it.

Only what makes an architecture is read; the other keys of such a file (tokens, dropout, dtypes) are
left alone. A key that the library has a default for may be missing or null, and then means that
default (`parplan.sim.models.hf_families`); sizes have to be there.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from parplan._files import without_links
from parplan._strict import build, read_json
from parplan.errors import ParplanError, unknown_name
from parplan.sim.models.hf_families import FAMILIES
from parplan.sim.models.hf_keys import Keys
from parplan.sim.models.hf_more import MORE, NOT_MODELLED
from parplan.sim.models.model import Model

EPSILONS = ("rms_norm_eps", "layer_norm_epsilon", "layer_norm_eps", "norm_epsilon", "norm_eps")


def model_from_hf(path: Path) -> Model:
    """The model of a `config.json`, named as its folder, or as the file where it has another name.

    Raises `ParplanError` for a file that cannot be read, a `model_type` that is not known, and a
    key that is missing, of the wrong type, or asks for what `Model` does not have.
    """
    table = read_json(path)
    if not isinstance(table, Mapping):
        raise ParplanError(f"{path}: expected a table, got {type(table).__name__}")
    name = without_links(path).parent.name if path.name == "config.json" else path.stem
    return model_from_table(table, name, str(path))


def model_from_table(table: Mapping[str, Any], name: str, where: str) -> Model:
    """The model of the table that a `config.json` has; `where` begins each message.

    Raises `ParplanError` as `model_from_hf` does.
    """
    keys = Keys(table=table, where=where)
    family = keys.text("model_type")
    if family in NOT_MODELLED:
        raise ParplanError(f"{where}: model_type {family}: {NOT_MODELLED[family]}")
    families = FAMILIES | MORE
    if family not in families:
        raise ParplanError(f"{where}: {unknown_name('model_type', family, families)}")
    if keys.flag("is_encoder_decoder", False):
        raise ParplanError(f"{where}: is_encoder_decoder: only decoders are known")
    fields: dict[str, Any] = {"name": name, "source": f"{Path(where).name}: {family}"}
    return build(Model, fields | _numbers(table) | families[family](keys), where)


def _numbers(table: Mapping[str, Any]) -> dict[str, float]:
    """The base of rotary positions and the epsilon of normalisations, where they are said."""
    inner = table.get("text_config")
    parts = [table, *([inner] if isinstance(inner, Mapping) else [])]
    for part in tuple(parts):
        rope = part.get("rope_parameters")
        if isinstance(rope, Mapping):
            parts += [rope, *(one for one in rope.values() if isinstance(one, Mapping))]
    names = {"rope_theta": ("rope_theta", "rotary_emb_base"), "norm_epsilon": EPSILONS}
    found: dict[str, float] = {}
    for field, keys in names.items():
        for value in (part.get(key) for part in parts for key in keys):
            if isinstance(value, bool) or not isinstance(value, int | float):
                continue
            if 0 < value < math.inf:
                found.setdefault(field, float(value))
    return found
