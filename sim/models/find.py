"""A model by its name: a preset, a TOML file with the table of one, or a `config.json`."""

import os
from pathlib import Path
from typing import Any

from parplan.errors import ParplanError, short
from parplan.sim.models.hf_config import model_from_hf
from parplan.sim.models.model import Model, model_preset, model_presets


def find_model(given: "Model | str | os.PathLike[str] | Any") -> Model:
    """The model that is given, or that a name or a path means.

    Raises `ParplanError`: for an unknown name with near ones, for a file with its path and key.
    """
    if isinstance(given, Model):
        return given
    try:
        name = os.fsdecode(given) if isinstance(given, str | os.PathLike) else None
    except TypeError:  # A path that is no text.
        name = None
    if name is None:
        raise ParplanError(
            "model: expected a preset such as llama3-8b, a TOML file, a config.json or a Model, "
            f"got {short(given)}"
        )
    if name.endswith(".json"):
        return model_from_hf(Path(name))
    if not name.endswith(".toml"):
        return model_preset(name)
    models = list(model_presets(Path(name)).values())
    if len(models) != 1:
        raise ParplanError(f"{name}: expected the table of one model, got {len(models)}")
    return models[0]
