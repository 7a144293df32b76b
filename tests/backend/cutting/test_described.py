"""Models of training scripts as model files for the simulator."""

import textwrap
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional

from parplan.backend.cutting.caught_call import caught_in_script
from parplan.backend.cutting.described import describe, model_table
from parplan.errors import ParplanError
from parplan.sim.models.find import find_model
from tests.commands import parplan

SCRIPT = """
    import sys
    import torch
    from torch import nn
    from torch.nn import functional

    WIDTH, HEADS = 48, int(sys.argv[1])

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.inner = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 3 * WIDTH)
            self.out, self.next = nn.Linear(WIDTH, WIDTH), nn.LayerNorm(WIDTH)
            self.up, self.down = nn.Linear(WIDTH, 5 * WIDTH), nn.Linear(5 * WIDTH, WIDTH)

        def forward(self, x):
            rows, length, _ = x.shape
            parts = self.inner(self.norm(x)).view(rows, length, 3, HEADS, -1)
            q, k, v = parts.permute(2, 0, 3, 1, 4)
            scores = (q @ k.transpose(2, 3)).softmax(-1)
            x = x + self.out((scores @ v).transpose(1, 2).reshape(rows, length, WIDTH))
            return x + self.down(functional.gelu(self.up(self.next(x))))

    class Gpt(nn.Module):
        def __init__(self):
            super().__init__()
            self.places = nn.Parameter(torch.zeros(1, 20, WIDTH))
            self.tokens = nn.Embedding(300, WIDTH)
            self.blocks = nn.ModuleList(Block() for _ in range(3))
            self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 300, bias=False)
            self.head.weight = self.tokens.weight

        def forward(self, tokens):
            x = self.tokens(tokens) + self.places[:, : tokens.shape[1]]
            for block in self.blocks:
                x = block(x)
            return self.head(self.norm(x))

    if __name__ == "__main__":
        model = Gpt()
        tokens = torch.randint(300, (4, 16))
        with torch.no_grad():
            model(tokens[:1])
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(tokens=tokens)
        raise SystemExit("trained")
"""


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "train it.py"
    path.write_text(textwrap.dedent(SCRIPT))
    return path


def test_a_script_gives_a_model_file_that_can_be_planned_with(script: Path, tmp_path: Path) -> None:
    done = parplan("trace", script, "-o", "my own.toml", "--arguments", "6", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    model = find_model(tmp_path / "my own.toml")
    assert (model.num_layers, model.hidden_size, model.num_heads) == (3, 48, 6)
    assert (model.ffn_size, model.vocab_size, model.learned_positions) == (240, 300, 20)
    assert (model.mlp, model.norm, model.bias, model.tied_embeddings) == (
        *("plain", "layernorm"),
        *(True, True),
    )
    count = f"{model.num_parameters:,}"
    first, last = done.stdout.splitlines()[-2:]
    assert first == f"{count} parameters, of which the description counts {count} (+0.00%)"
    own = "parplan plan 'my own.toml' --cluster 8xh100 --seq-len 16 --global-batch 4"
    assert last == f"next: {own} --precision bf16"


def test_arguments_are_those_of_the_script(script: Path) -> None:
    assert describe(*caught_in_script(script, ["4"])[:2], "x", "a test").model.num_heads == 4


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("raise ValueError('no data')", r"failed before it trained: ValueError: no data$"),
        ("raise SystemExit(3)", r"ended \(3\) before it trained$"),
        ("pass", r"calls no model with parameters and gradients enabled$"),
    ],
)
def test_a_script_that_trains_nothing(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "train.py"
    path.write_text(text)
    with pytest.raises(ParplanError, match=message):
        caught_in_script(path)


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("llama", {"num_key_value_heads": 2}),
        ("qwen2", {"num_key_value_heads": 1}),
        ("qwen3", {"num_key_value_heads": 2, "head_dim": 32}),
        ("gemma2", {"num_key_value_heads": 2, "head_dim": 16}),
    ],
)
def test_hugging_face_models_are_described_as_their_configs_are(kind, settings) -> None:
    transformers = pytest.importorskip("transformers")
    from parplan.sim.models.hf_config import model_from_table

    config = transformers.AutoConfig.for_model(
        kind,
        **{"hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4},
        **{"intermediate_size": 96, "vocab_size": 500},
        **settings,
    )
    model = transformers.AutoModelForCausalLM.from_config(config)
    tokens = torch.zeros(2, 16, dtype=torch.int64)
    found = describe(model, ((), {"input_ids": tokens}), "x", "a test")
    expected = model_from_table(config.to_dict(), kind, "config")
    assert found.model.num_parameters == expected.num_parameters == found.parameters
    for name in ("num_heads", "num_kv_heads", "head_size", "ffn_size", "num_layers", "mlp", "norm"):
        assert getattr(found.model, name) == getattr(expected, name)
    assert (found.seq_len, found.batch) == (16, 2)


class Uneven(nn.Module):
    def __init__(self, *widths: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(16, 2, width, batch_first=True) for width in widths
        )
        self.head = nn.Linear(16, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = block(x)
        return self.head(x)


@pytest.mark.parametrize(
    ("model", "inputs", "why"),
    [
        (nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3)), (2, 3, 8, 8), "0 products before"),
        (Uneven(32, 48), (2, 4, 16), "its blocks differ"),
        (nn.Linear(2, 2), (2, 2), "it has no list of blocks"),
        (Uneven(32, 32), (2, 4, 15), "cannot run without values"),
    ],
)
def test_what_is_no_transformer_is_refused_in_one_line(model, inputs, why) -> None:
    with pytest.raises(ParplanError, match=rf"^x: not a transformer .*{why}") as caught:
        describe(model, ((torch.zeros(inputs),), {}), "x", "a test")
    assert "\n" not in str(caught.value)


def test_a_table_reads_back_as_the_model(tmp_path: Path) -> None:
    model = Uneven(32, 32)
    model.embedding = nn.Embedding(8, 16)
    model.forward = lambda x: functional.relu(x)  # an own forward is not what is described
    found = describe(model, ((torch.zeros(2, 4, 16),), {}), "x", 'with "quotes" \\ and so on')
    (tmp_path / "x.toml").write_text(model_table(found.model))
    read = find_model(tmp_path / "x.toml")
    assert read.num_parameters == found.model.num_parameters
    assert read.source == "with 'quotes' / and so on"
