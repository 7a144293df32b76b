"""Model presets: parameter counts as published."""

from dataclasses import replace
from pathlib import Path

import pytest

from parplan.errors import ParplanError
from parplan.sim.models.model import (
    LatentAttention,
    LocalAttention,
    MixtureOfExperts,
    model_preset,
    model_presets,
)
from parplan.sim.software.framework import NO_OVERHEAD
from parplan.sim.workload import Workload

PUBLISHED = {
    # Exact: the sum of the tensors of the published checkpoints.
    "llama-7b": 6_738_415_616,
    "llama-13b": 13_015_864_320,
    "llama-30b": 32_528_943_616,
    "llama-65b": 65_285_660_672,
    "llama2-7b": 6_738_415_616,
    "llama2-13b": 13_015_864_320,
    "llama2-70b": 68_976_648_192,
    "llama3-8b": 8_030_261_248,
    "llama3-70b": 70_553_706_496,
    "llama3.1-405b": 405_853_388_800,
    "llama3.2-1b": 1_235_814_400,
    "llama3.2-3b": 3_212_749_824,
    "mistral-7b": 7_241_732_096,
    "mistral-7b-v0.3": 7_248_023_552,
    "mistral-nemo-12b": 12_247_782_400,
    "mistral-large-123b": 122_610_069_504,
    "mixtral-8x7b": 46_702_792_704,
    "phi3-mini": 3_821_079_552,
    "phi3-medium": 13_960_238_080,
    # Without the bias of its output projection.
    "phi-2": 2_779_683_840 - 51_200,
    "qwen2.5-0.5b": 494_032_768,
    "qwen2.5-1.5b": 1_543_714_304,
    "qwen2.5-3b": 3_085_938_688,
    "qwen2.5-7b": 7_615_616_512,
    "qwen2.5-14b": 14_770_033_664,
    "qwen2.5-32b": 32_763_876_352,
    "qwen2.5-72b": 72_706_203_648,
    "qwen3-0.6b": 596_049_920,
    "qwen3-4b": 4_022_468_096,
    "qwen3-8b": 8_190_735_360,
    "qwen3-14b": 14_768_307_200,
    "qwen3-32b": 32_762_123_264,
    "qwen3-30b-a3b": 30_532_122_624,
    "qwen3-235b-a22b": 235_093_634_560,
    "gemma-2b": 2_506_172_416,
    "gemma-7b": 8_537_680_896,
    "gemma2-2b": 2_614_341_888,
    "gemma2-9b": 9_241_705_984,
    "gemma2-27b": 27_227_128_320,
    "gemma3-1b": 999_885_952,
    "gpt2-small": 124_439_808,
    "gpt2-medium": 354_823_168,
    "gpt2-large": 774_030_080,
    "gpt2-xl": 1_557_611_200,
    "opt-125m": 125_239_296,
    "opt-1.3b": 1_315_758_080,
    "opt-6.7b": 6_658_473_984,
    "opt-13b": 12_853_473_280,
    "opt-30b": 29_974_540_288,
    # Without the normalisation after the embedding.
    "bloom-560m": 559_214_592 - 2 * 1024,
    "bloom-7b1": 7_069_016_064 - 2 * 4096,
    "bloom-176b": 176_247_271_424 - 2 * 14336,
    "mpt-7b-alibi": 6_649_286_656,
    "gpt-neox-20b": 20_554_567_680,
    "falcon-7b": 6_921_720_704,
    "falcon-40b": 41_303_293_952,
    "falcon-180b": 179_522_565_120,
    "deepseek-v2": 235_741_434_880,
    "deepseek-v2-lite": 15_706_484_224,
    # Without the 58 x 256 numbers by which its router balances the experts.
    "deepseek-v3": 671_026_419_200 - 58 * 256,
    # Without the sink of each of the 64 heads.
    "gpt-oss-20b": 20_914_757_184 - 24 * 64,
    "gpt-oss-120b": 116_829_156_672 - 36 * 64,
    # As the benchmarks of LLM Foundry print them.
    "mpt-125m": 125_311_488,
    "mpt-350m": 355_985_408,
    "mpt-760m": 760_470_528,
    "mpt-1b": 1_315_950_592,
    "mpt-3b": 2_651_837_440,
    "mpt-7b": 6_658_859_008,
    "mpt-13b": 12_853_954_560,
    "mpt-30b": 29_975_214_080,
    "mpt-70b": 64_862_437_376,
}

NAMED = {
    # Billions, as the papers and model cards say.
    "gpt3-175b": 175,
    "llama3-405b": 405,
    "mixtral-8x22b": 141,
    "grok-1": 314,
    "kimi-k2": 1040,
    "glm-4.5": 355,
    "moonlight-16b-a3b": 15.96,
    "llama4-scout": 109,
    "llama4-maverick": 400,
    "nemotron-4-15b": 15.6,
    "nemotron-4-340b": 341,
    "palm-8b": 8.63,
    "palm-62b": 62.50,
    "palm-540b": 540.35,
    "internlm-7b": 7.3,
    "baichuan2-13b": 13.9,
    "opt-66b": 66,
    "gemma3-27b": 27,
    "mt-nlg-530b": 530,
    "megatron-readme-7.1b": 7.1,
    "megatron-readme-314b": 314,
    "megatron-readme-462b": 462,
    "megatron2019-1.2b": 1.2,
    "megatron2019-2.5b": 2.5,
    "megatron2019-4.2b": 4.2,
    "megatron2019-8.3b": 8.3,
    "bigscience-176b": 176,
    "bigscience-178b": 178,
    "bigscience-181b": 181,
    "bigscience-184b": 184,
    "bigscience-196b": 196,
    "maxtext-16b": 16,
    "maxtext-22b": 22,
    "maxtext-32b": 32,
    "maxtext-64b": 64,
    "maxtext-128b": 128,
    "gemma3-12b": 11.8,
    "korthikanti-22b": 22,
    "korthikanti-175b": 175,
    "korthikanti-530b": 530,
    "korthikanti-1t": 1000,
    "zero-bubble-1.5b": 1.5,
    "zero-bubble-6.2b": 6.2,
    "zero-bubble-14.6b": 14.6,
    "zero-bubble-28.3b": 28.3,
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_of_published_checkpoints(name: str) -> None:
    assert model_preset(name).num_parameters == PUBLISHED[name]


@pytest.mark.parametrize(("name", "billions"), NAMED.items())
def test_parameters_as_named(name: str, billions: float) -> None:
    assert model_preset(name).num_parameters == pytest.approx(billions * 1e9, rel=0.02)


def test_parameters_of_table_1_of_megatron() -> None:
    # Narayanan et al. 2021, arXiv:2104.04473: equation 2, whose results the table rounds.
    sizes = ("1.7", "3.6", "7.5", "18.4", "39.1", "76.1", "145.6", "310.1", "529.6", "1008")
    for size in sizes:
        model = model_preset(f"megatron-{size}b")
        h, layers = model.hidden_size, model.num_layers
        paper = 12 * layers * h**2 * (1 + 13 / (12 * h) + (51200 + 2048) / (12 * layers * h))
        assert round(paper / 1e9, 1) == float(size)
        assert model.num_parameters == pytest.approx(paper, rel=1e-5)


def test_every_preset_names_its_source() -> None:
    assert all(model.source for model in model_presets().values())


def test_an_unknown_model_suggests_near_ones() -> None:
    with pytest.raises(ParplanError, match=r"unknown model 'llama2-13'; did you mean .*llama2-13b"):
        model_preset("llama2-13")


REST = """hidden_size = 64
num_heads = 4
num_kv_heads = 4
ffn_size = 256
vocab_size = 100
mlp = "plain"
norm = "layernorm"
bias = true
tied_embeddings = false
source = "test"
"""


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("num_layers = 0", "num_layers: must be at least 1, got 0"),
        ("num_layers = 2.5", r"num_layers: expected int, got 2.5"),
        ("num_layers = true", r"num_layers: expected int, got True"),
        ("num_layer = 2", "unknown key 'num_layer'"),
        ("", "missing key 'num_layers'"),
        ("num_layers = ", "not valid TOML"),
    ],
)
def test_a_malformed_preset_is_refused_by_file_and_key(
    tmp_path: Path, line: str, message: str
) -> None:
    path = tmp_path / "models.toml"
    path.write_text(f"[mine]\n{REST}{line}\n")
    with pytest.raises(ParplanError, match=message) as error:
        model_presets(path)
    assert str(path) in str(error.value)


def test_a_model_may_not_be_given_twice(tmp_path: Path) -> None:
    for name in ("models.toml", "models_more.toml"):
        (tmp_path / name).write_text("[mine]\nnum_layers = 2\n" + REST)
    with pytest.raises(ParplanError, match=r"models_more\.toml: mine: another file has a model"):
        model_presets(tmp_path)


def test_model_flops_of_gpt3() -> None:
    # Narayanan et al. 2021, equation 3 without recomputation (factor 72 instead of 96):
    # 72 B s l h^2 (1 + s / 6h + V / 12 l h), for a batch of 1,536 sequences of 2,048 tokens.
    workload = Workload(
        model=model_preset("gpt3-175b"), seq_len=2048, global_batch=1536, framework=NO_OVERHEAD
    )
    m = workload.model
    s, layers, h, v = 2048, m.num_layers, m.hidden_size, m.vocab_size
    paper = 72 * 1536 * s * layers * h**2 * (1 + s / (6 * h) + v / (12 * layers * h))
    assert workload.model_flops == pytest.approx(paper, rel=1e-9)


def test_positions_limit_the_sequence() -> None:
    with pytest.raises(ParplanError, match="2048 positions, got 4096"):
        Workload(
            model=model_preset("gpt3-175b"), seq_len=4096, global_batch=1, framework=NO_OVERHEAD
        )


@pytest.mark.parametrize(
    ("name", "billions"),
    [
        ("mixtral-8x7b", 12.9),  # arXiv:2401.04088
        ("mixtral-8x22b", 39),  # model card
        ("deepseek-v2", 21),  # arXiv:2405.04434
        ("deepseek-v3", 37),  # arXiv:2412.19437
        ("kimi-k2", 32.6),  # arXiv:2507.20534
        ("qwen3-235b-a22b", 22),  # arXiv:2505.09388
        ("llama4-maverick", 17),  # model card
    ],
)
def test_parameters_that_a_token_meets(name: str, billions: float) -> None:
    model = model_preset(name)
    active = sum(model.active_matrix_parameters(kind) for kind in model.layer_kinds)
    tables = model.embedding_parameters + model.head_parameters
    assert active + tables == pytest.approx(billions * 1e9, rel=0.02)


def test_windows_hold_in_all_layers_but_each_so_manieth() -> None:
    assert model_preset("gemma3-1b").layer_kinds[:7] == ("dense local",) * 5 + (
        "dense",
        "dense local",
    )
    assert model_preset("gpt-oss-20b").layer_kinds[:3] == ("moe local", "moe", "moe local")
    assert set(model_preset("phi3-mini").layer_kinds) == {"dense local"}


def test_layers_with_experts_begin_after_the_dense_ones_and_may_alternate() -> None:
    deepseek = model_preset("deepseek-v3")
    assert deepseek.layer_kinds == ("dense",) * 3 + ("moe",) * 58
    every_second = replace(deepseek.moe, every=2, first_dense_layers=1)
    assert replace(deepseek, moe=every_second).layer_kinds[:4] == ("dense", "dense", "moe", "dense")


def test_experts_are_checked() -> None:
    with pytest.raises(ParplanError, match="top_k: 9 of 8 experts"):
        MixtureOfExperts(num_experts=8, top_k=9, ffn_size=4)
    with pytest.raises(ParplanError, match="window: must be at least 1, got 0"):
        LocalAttention(window=0)
    with pytest.raises(ParplanError, match="block_norms: 1; allowed: 1 or 2 with parallel_block"):
        replace(model_preset("llama3-8b"), block_norms=1)
    with pytest.raises(ParplanError, match="kv_rank: must be at least 1"):
        LatentAttention(kv_rank=0, nope_size=1, rope_size=1, value_size=1)
