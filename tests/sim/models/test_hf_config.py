"""Models from config.json files: those of the presets, and what such a file has to say.

The files of tests/golden/hf have the architecture's keys of the published ones, written down again.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from parplan.errors import ParplanError
from parplan.sim.models.find import find_model
from parplan.sim.models.hf_config import model_from_hf
from parplan.sim.models.hf_families import FAMILIES
from parplan.sim.models.model import LocalAttention, model_preset

GOLDEN = sorted((Path(__file__).parents[2] / "golden" / "hf").glob("*.json"))

CHANGED: dict[str, dict[str, Any]] = {
    # The first version, whose preset has no window.
    "mistral-7b": {"local": LocalAttention(window=4096)},
}
"""Where a preset is not what its file says."""


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_a_published_config_is_the_preset_of_its_name(path: Path) -> None:
    preset = model_preset(path.stem)
    model = model_from_hf(path)
    assert model.num_parameters == preset.num_parameters
    changed = CHANGED.get(path.stem, {})
    same = {"source": model.source, "head_dim": model.head_dim, "qkv_bias": model.qkv_bias}
    assert model == dataclasses.replace(preset, **same, **changed)
    assert model.head_size == preset.head_size


def test_every_family_has_a_published_config() -> None:
    named = {json.loads(path.read_text())["model_type"] for path in GOLDEN}
    assert named == set(FAMILIES) - {"kimi_k2"}


def llama(**changes: Any) -> dict[str, Any]:
    table = json.loads((Path(__file__).parents[2] / "golden/hf/llama3-8b.json").read_text())
    return {key: value for key, value in (table | changes).items() if value != "missing"}


def written(folder: Path, table: Any) -> Path:
    path = folder / "config.json"
    path.write_text(json.dumps(table))
    return path


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "lama"}, "unknown model_type 'lama'; did you mean llama"),
        ({"model_type": "missing"}, "missing key 'model_type'"),
        ({"hidden_size": "missing"}, "missing key 'hidden_size'"),
        ({"hidden_size": None}, "missing key 'hidden_size'"),
        ({"hidden_size": "4096"}, "hidden_size: expected an integer of at least 1, got '4096'"),
        ({"vocab_size": 0}, "vocab_size: expected an integer of at least 1, got 0"),
        ({"num_hidden_layers": True}, "num_hidden_layers: expected an integer"),
        ({"tie_word_embeddings": 1}, "tie_word_embeddings: expected true or false, got 1"),
        ({"num_key_value_heads": 5}, "num_heads 32 is not a multiple of num_kv_heads 5"),
        ({"is_encoder_decoder": True}, "is_encoder_decoder: only decoders"),
        ({"model_type": "qwen2", "use_sliding_window": True}, "use_sliding_window: True is not"),
        ({"model_type": "opt", "word_embed_proj_dim": 512}, "word_embed_proj_dim: 512 is not"),
        ({"model_type": "deepseek_v3"}, "missing key 'n_routed_experts'"),
        ({"model_type": "gpt2", "hidden_size": "missing"}, r"'n_embd' \(or 'hidden_size'\)"),
        ({"model_type": "mpt", "attn_config": 3}, "attn_config: expected a table, got 3"),
    ],
)
def test_a_wrong_config_is_refused_by_file_and_key(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    path = written(tmp_path, llama(**changes))
    with pytest.raises(ParplanError, match=message) as error:
        model_from_hf(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_config_that_is_no_table_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ParplanError, match="expected a table, got list"):
        model_from_hf(written(tmp_path, []))


def test_a_model_is_named_as_the_folder_of_its_config(tmp_path: Path) -> None:
    folder = tmp_path / "my-llama"
    folder.mkdir()
    path = written(folder, llama())
    assert find_model(str(path)).name == "my-llama"


def test_keys_that_are_missing_mean_the_defaults_of_the_library(tmp_path: Path) -> None:
    old = {"model_type": "mistral", "num_key_value_heads": "missing"}
    model = model_from_hf(written(tmp_path, llama(**old)))
    assert (model.num_kv_heads, model.local) == (8, LocalAttention(window=4096))
    model = model_from_hf(written(tmp_path, llama(num_key_value_heads="missing")))
    assert model.num_kv_heads == model.num_heads


def test_positions_of_mpt_are_learned_without_alibi(tmp_path: Path) -> None:
    table = json.loads((Path(__file__).parents[2] / "golden/hf/mpt-7b-alibi.json").read_text())
    table |= {"attn_config": {"alibi": False}, "no_bias": False, "vocab_size": 50368}
    path = written(tmp_path, table)
    assert model_from_hf(path).num_parameters == model_preset("mpt-7b").num_parameters


@pytest.mark.parametrize(
    ("changes", "theta"),
    [
        ({"rope_theta": 500000}, 500000.0),
        ({"rope_parameters": {"rope_theta": 1e6, "rope_type": "default"}}, 1e6),
        ({"rope_theta": "auto"}, None),
        ({}, None),
    ],
)
def test_numbers_for_exports_are_kept_and_change_no_model(
    tmp_path: Path, changes: dict[str, Any], theta: float | None
) -> None:
    table = {k: v for k, v in llama(rms_norm_eps=1e-6).items() if k != "rope_theta"}
    model = model_from_hf(written(tmp_path, table | changes))
    assert model.rope_theta == theta
    assert model.norm_epsilon == 1e-6
    assert model == dataclasses.replace(model, rope_theta=1.0, norm_epsilon=None)
    with pytest.raises(ParplanError, match="norm_epsilon: must be positive, got 0"):
        dataclasses.replace(model, norm_epsilon=0.0)
