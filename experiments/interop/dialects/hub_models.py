"""Models by the names that they have on the Hugging Face hub."""

import difflib
import re
from pathlib import Path

from parplan.errors import ParplanError
from parplan.experiments.interop.beside import beside
from parplan.sim.models.hf_config import model_from_hf
from parplan.sim.models.model import Model, model_preset, model_presets

_ENDS = re.compile(
    r"[-_](instruct|chat|base|hf|it|pt|sft|dpo|bf16|fp16|16k|32k|128k|thinking|preview|"
    r"4k|8k|bnb-4bit|v0\.[123]|\d{4})$"
)
STATE_SPACE = re.compile(
    r"(?i)mamba|jamba|nemotron-?h|hyena|falcon-?h1|lfm2|granite-?4|bamba|zamba|rwkv|^hybrid$"
)
"""Names of families with state-space or convolution layers."""

_ALIASES = {
    "mpt-7b": "mpt-7b-alibi",
    "mpt-30b": "mpt-30b-alibi",
    "gpt2": "gpt2-small",
    # Of the same shape, which the later release kept.
    **{f"qwen2-{size}": f"qwen2.5-{size}" for size in ("0.5b", "1.5b", "7b", "72b")},
    **{f"qwen2.5-coder-{size}": f"qwen2.5-{size}" for size in ("7b", "14b", "32b")},
    "llama-3.3-70b": "llama3.1-70b",
}
"""Names on the hub that are those of other presets here."""


def hub_model(name: str, where: str) -> Model:
    """The model that a path or a name on the hub means.

    A folder beside the launch with a `config.json` goes first. Raises `ParplanError` for a model
    that is neither there nor among the presets.
    """
    path = beside(where, f"{name.rstrip('/')}/config.json") if name else None
    if path is not None:
        return model_from_hf(path)
    preset = preset_of(name)
    if preset is None and STATE_SPACE.search(name):
        raise ParplanError(f"{where}: the model {name!r}: not modelled: state-space layers")
    if preset is None:
        near = difflib.get_close_matches(Path(name).name.lower(), model_presets(), n=2, cutoff=0.6)
        hint = f" (near: {', '.join(near)})" if near else ""
        raise ParplanError(
            f"{where}: the model {name!r} is not known here; give --model, a preset{hint} or its "
            "config.json"
        )
    return model_preset(preset)


def preset_of(name: str) -> str | None:
    """The preset of a name such as `meta-llama/Llama-3.1-8B-Instruct`; None where there is none."""
    plain = Path(name).name.lower().removeprefix("meta-")
    known = {_plain(preset): preset for preset in model_presets()}
    while True:
        found = known.get(_plain(_ALIASES.get(plain, plain)))
        if found is not None:
            return found
        shorter = _ENDS.sub("", plain)
        if shorter == plain:
            return None
        plain = shorter


def _plain(name: str) -> str:
    return re.sub(r"[-_ ]", "", name)
