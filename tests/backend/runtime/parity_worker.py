"""Run by torchrun: each case trains by its plan and then alone, and the two are compared.

Argument: JSON of {case: {"plan": ..., "schedule": CSV text or null, "batches": sizes, "model": one
of MODELS or null, for layers that only this file knows}}. Every rank prints a line of JSON per
case. Weights are compared relative to the largest of their tensor, in float64: a bias of the keys
has no gradient but rounding errors, which Adam would magnify to whole steps in float32.
"""

import json
import sys

import torch
import torch.distributed as dist
from torch import nn

from parplan.backend.models.gpt import gpt_layers, initialise
from parplan.backend.runtime.pipeline import PipelineStep
from parplan.backend.runtime.tensor_parallel import whole_parameters
from parplan.sim.models.model import LocalAttention, Model
from parplan.sim.plan import Plan
from parplan.sim.programs.instructions import read_csv

VOCABULARY, WIDTH, LENGTH = 31, 16, 6
LEARNING_RATE = 1e-2


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.projection = nn.Linear(WIDTH, 3 * WIDTH)
        self.up = nn.Linear(WIDTH, 4 * WIDTH)
        self.down = nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x):
        query, key, value = self.projection(self.norm(x)).chunk(3, dim=-1)
        x = x + nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        return x + self.down(nn.functional.gelu(self.up(x)))


MODELS = {
    "gpt": {"mlp": "plain", "norm": "layernorm", "bias": True, "learned_positions": 8},
    "llama": {"mlp": "gated", "norm": "rmsnorm", "bias": False},
    # Norms around both halves, windows, tied ends, heads of another size; biases as Qwen2's.
    "gemma": {
        "mlp": "gated",
        "norm": "rmsnorm",
        "bias": False,
        "qkv_bias": True,
        "query_key_norm": True,
        "block_norms": 4,
        "head_dim": 6,
        "local": LocalAttention(window=3, global_every=2),
        "tied_embeddings": True,
    },
    "falcon": {
        "mlp": "plain",
        "norm": "layernorm",
        "norm_bias": False,
        "bias": False,
        "parallel_block": True,
        "block_norms": 1,
        "alibi": True,
        "tied_embeddings": True,
    },
}


def make_layers(kind=None):
    torch.manual_seed(1)
    if kind is not None:
        model = Model(
            **{"tied_embeddings": False, **MODELS[kind]},
            name=kind,
            num_layers=4,
            hidden_size=WIDTH,
            num_heads=4,
            num_kv_heads=2,
            ffn_size=4 * WIDTH,
            vocab_size=VOCABULARY + 1,
            source="",
        )
        layers = gpt_layers(model, LENGTH)
        initialise(layers, seed=1)
        return layers
    blocks = [Block() for _ in range(4)]
    return [nn.Embedding(VOCABULARY, WIDTH), *blocks, nn.Linear(WIDTH, VOCABULARY)]


def loss_fn(logits, targets):
    return nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())


def make_batches(sizes):
    generator = torch.Generator().manual_seed(2)
    batches = [torch.randint(VOCABULARY, (n, LENGTH + 1), generator=generator) for n in sizes]
    return [(batch[:, :-1], batch[:, 1:]) for batch in batches]


def train(optimizer, batches, train_loss, eval_loss):
    """Losses before and after each step, twice before it: in training and in evaluation."""
    losses = []
    for batch in batches:
        losses.append(train_loss(*batch).item())
        losses.append(eval_loss(*batch).item())
        optimizer.step()
        optimizer.zero_grad()
        losses.append(eval_loss(*batch).item())
    return losses


def train_alone(batches, kind=None):
    layers = make_layers(kind)
    model = nn.Sequential(*layers)

    def train_loss(inputs, targets):
        loss = loss_fn(model(inputs), targets)
        loss.backward()
        return loss

    @torch.no_grad()
    def eval_loss(inputs, targets):
        return loss_fn(model(inputs), targets)

    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE)
    return train(optimizer, batches, train_loss, eval_loss), layers


def train_planned(case, batches):
    layers, marks = make_layers(case.get("model")), []
    plan = Plan.from_json(case["plan"])
    schedule = read_csv(case["schedule"]) if case.get("schedule") else None
    step = PipelineStep(
        layers=layers,
        plan=plan,
        loss_fn=loss_fn,
        example_micro_batch=batches[0][0][: plan.batch_per_device],
        device=torch.device("cpu"),
        mark=lambda *mark: marks.append(mark),
        schedule=schedule,
    )
    optimizer = step.optimizer(torch.optim.AdamW, lr=LEARNING_RATE)
    losses = train(optimizer, batches, step.step, step.evaluate)
    own = {id(p) for p in step.parameters()}
    return (
        losses,
        {
            i: whole_parameters(x, plan.tensor_parallel)
            for i, x in enumerate(layers)
            if {id(p) for p in x.parameters()} <= own
        },
        [
            f"{stage}{kind}{micro_batch}"
            for kind, stage, micro_batch, *_ in marks
            if micro_batch >= 0  # Not those of gathers and reductions.
        ],
    )


def largest_difference(ours, theirs):
    pairs = zip(ours, theirs.parameters(), strict=True)
    return max(((a - b).abs().max() / b.abs().max()).item() for a, b in pairs)


def compare(case):
    batches = make_batches(case.get("batches", [8] * 5))
    expected_losses, expected = train_alone(batches, case.get("model"))
    losses, layers, marks = train_planned(case, batches)
    initial = make_layers(case.get("model"))
    pairs = zip(losses, expected_losses, strict=True)
    return {
        "loss": max(abs(a - b) / abs(b) for a, b in pairs),
        "weight": max(largest_difference(x, expected[i]) for i, x in layers.items()),
        "moved": min(largest_difference(x, initial[i]) for i, x in layers.items()),
        "layers": list(layers),
        "marks": marks,
    }


if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    dist.init_process_group("gloo")
    for name, case in json.loads(sys.argv[1]).items():
        line = json.dumps({"case": name, "rank": dist.get_rank(), **compare(case)})
        sys.stdout.write(line + "\n")
        sys.stdout.flush()
    dist.destroy_process_group()
