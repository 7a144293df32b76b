"""A model made smaller, with the same kinds of layers, so that a small machine can train it."""

import dataclasses
import math

from parplan.errors import ParplanError
from parplan.sim.models.model import Model

LEAST_LAYERS = 2
LEAST_VOCABULARY = 128
MULTIPLE = 8
"""Of sizes, so that tensor parallelism over a few ranks divides them."""


def scaled_down(model: Model, factor: int) -> Model:
    """`model` with about 1 / `factor` of its layers, width, heads and vocabulary.

    Queries per key and value head stay as they are, and so does everything that is no size.
    Windows shrink as well, experts in their width alone. Raises `ParplanError` below 1.
    """
    if factor < 1:
        raise ParplanError(f"scale: must be at least 1, got {factor}")
    if factor == 1:
        return model
    kv_heads = max(1, model.num_kv_heads // factor)
    heads = kv_heads * (model.num_heads // model.num_kv_heads)
    # An even head size for rotary positions.
    hidden = _up(model.hidden_size / factor, math.lcm(2 * heads, MULTIPLE))
    changes: dict[str, object] = {
        "name": f"{model.name}/{factor}",
        "num_layers": max(LEAST_LAYERS, model.num_layers // factor),
        "hidden_size": hidden,
        "num_heads": heads,
        "num_kv_heads": kv_heads,
        "ffn_size": _up(model.ffn_size / factor, MULTIPLE),
        "vocab_size": max(LEAST_VOCABULARY, _up(model.vocab_size / factor, MULTIPLE)),
    }
    if model.head_dim is not None:
        share = model.query_size / model.hidden_size
        changes["head_dim"] = _up(share * hidden / heads, 2)
    if model.local is not None:
        window = max(2, model.local.window // factor)
        changes["local"] = dataclasses.replace(model.local, window=window)
    if model.moe is not None:
        width = _up(model.moe.ffn_size / factor, MULTIPLE)
        changes["moe"] = dataclasses.replace(model.moe, ffn_size=width)
    return dataclasses.replace(model, **changes)  # type: ignore[arg-type]


def _up(size: float, multiple: int) -> int:
    """The next multiple at or above `size`."""
    return max(1, -(-int(size) // multiple)) * multiple
