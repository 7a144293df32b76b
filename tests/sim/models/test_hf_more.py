"""Families of 2024 to 2026: the parameters that Transformers itself counts, and what is refused."""

import json
from pathlib import Path
from typing import Any

import pytest

from parplan.errors import ParplanError
from parplan.sim.models.hf_config import model_from_table
from parplan.sim.models.hf_more import MORE, NOT_MODELLED
from parplan.sim.models.model import model_preset

FILE = Path(__file__).parents[2] / "golden" / "hf_families.json"
PUBLISHED: dict[str, tuple[int, dict[str, Any]]] = {
    name: (found["parameters"], found["config"])
    for name, found in json.loads(FILE.read_text()).items()
}
"""Keys of published configurations, and the parameters of the modules that Transformers 5.24 makes
of them. Small biases and norms that `Model` does not have are left out: at most 4 in 100,000."""


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_family_has_the_parameters_that_transformers_counts(name: str) -> None:
    count, table = PUBLISHED[name]
    model = model_from_table(table, name, "config.json")
    assert model.num_parameters == pytest.approx(count, rel=4e-5)


TEXT = {
    "gemma3": "gemma3-27b",
    "llama4": "llama4-scout",
    "qwen3_vl": "qwen3-8b",
    "qwen3_vl_moe": "qwen3-30b-a3b",
    "qwen2_5_vl": "qwen2.5-7b",
    "mistral3": "mistral-nemo-12b",
}
"""Models that see, and the preset of their part that reads."""


def text_config(family: str) -> dict[str, Any]:
    """The keys of the preset as a file of the family has them."""
    m = model_preset(TEXT[family])
    table: dict[str, Any] = {
        "num_hidden_layers": m.num_layers,
        "hidden_size": m.hidden_size,
        "num_attention_heads": m.num_heads,
        "num_key_value_heads": m.num_kv_heads,
        "intermediate_size": m.ffn_size,
        "head_dim": m.head_size,
        "vocab_size": m.vocab_size,
    }
    if m.moe is not None and family == "llama4":
        table |= {
            "intermediate_size": m.moe.ffn_size,
            "intermediate_size_mlp": m.ffn_size,
            "num_local_experts": m.moe.num_experts,
            "interleave_moe_layer_step": m.moe.every,
        }
    elif m.moe is not None:
        table |= {
            "num_experts": m.moe.num_experts,
            "moe_intermediate_size": m.moe.ffn_size,
            "num_experts_per_tok": m.moe.top_k,
        }
    return table


@pytest.mark.parametrize("family", TEXT)
def test_the_part_that_reads_is_the_model_of_text(family: str) -> None:
    preset = model_preset(TEXT[family])
    table = {
        "model_type": family,
        "text_config": text_config(family),
        "vision_config": {"hidden_size": 1},
        "tie_word_embeddings": preset.tied_embeddings,
    }
    model = model_from_table(table, family, "config.json")
    assert model.num_parameters == preset.num_parameters
    assert model.moe == preset.moe


def test_every_family_is_tried() -> None:
    tried = {table["model_type"] for _, table in PUBLISHED.values()} | set(TEXT)
    of_text = {f"{name}_text" for name in MORE} | {"qwen2_vl"}
    assert set(MORE) - tried - of_text == {"hunyuan_v1_moe"}


def test_sizes_of_layers_that_differ_are_refused() -> None:
    base = PUBLISHED["hunyuan-7b"][1] | {"model_type": "hunyuan_v1_moe", "num_experts": 64}
    base |= {"num_shared_expert": [1, 1], "moe_topk": [8, 8], "moe_intermediate_size": [3072] * 2}
    model = model_from_table(base, "hunyuan", "config.json")
    assert model.moe is not None
    assert (model.moe.top_k, model.moe.shared_experts, model.moe.ffn_size) == (8, 1, 3072)
    with pytest.raises(ParplanError, match="moe_topk: layers that differ are not modelled"):
        model_from_table(base | {"moe_topk": [8, 4]}, "hunyuan", "config.json")
    table = PUBLISHED["qwen1.5-moe"][1] | {"shared_expert_intermediate_size": 5000}
    with pytest.raises(ParplanError, match="5000 is not a multiple of the 1408"):
        model_from_table(table, "qwen", "config.json")


@pytest.mark.parametrize("family", NOT_MODELLED)
def test_what_is_not_modelled_is_named(family: str) -> None:
    with pytest.raises(ParplanError, match=rf"model_type {family}: not modelled: ") as error:
        model_from_table({"model_type": family}, "x", "config.json")
    assert "did you mean" not in str(error.value)


def test_state_space_layers_are_called_so() -> None:
    for family in ("nemotron_h", "jamba", "mamba2"):
        assert NOT_MODELLED[family] == "not modelled: state-space layers"
    assert not set(MORE) & set(NOT_MODELLED)
