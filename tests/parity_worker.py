"""Run by torchrun: every case trains as planned, and then alone, and the two are compared.

The first and the last rank print a line of JSON per case: its name, the rank, the largest relative
difference of losses, that of weights (relative to the largest weight of the tensor), the marks.
Everything is in float64: a bias of the keys has no gradient but rounding, which Adam would
magnify to full steps in float32.
"""

import json
import sys

import torch
import torch.distributed as dist
from torch import nn

from parplan.backend.pipeline import PipelineStep
from parplan.sim.plan import Plan

VOCABULARY, WIDTH, LENGTH, BATCH, STEPS = 31, 16, 6, 8, 5


class Block(nn.Module):
    """Attention and MLP, small."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.projection = nn.Linear(WIDTH, 3 * WIDTH)
        self.up = nn.Linear(WIDTH, 4 * WIDTH)
        self.down = nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        query, key, value = self.projection(self.norm(x)).chunk(3, dim=-1)
        x = x + nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        return x + self.down(nn.functional.gelu(self.up(x)))


def make_layers() -> list[nn.Module]:
    torch.manual_seed(1)
    blocks = [Block() for _ in range(4)]
    return [nn.Embedding(VOCABULARY, WIDTH), *blocks, nn.Linear(WIDTH, VOCABULARY)]


def loss_fn(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())


def batches() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    return [
        torch.randint(VOCABULARY, (BATCH, LENGTH + 1), generator=generator) for _ in range(STEPS)
    ]


def train_alone() -> tuple[list[float], list[nn.Module]]:
    layers = make_layers()
    model = nn.Sequential(*layers)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    for batch in batches():
        loss = loss_fn(model(batch[:, :-1]), batch[:, 1:])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses, layers


def train_planned(plan: Plan) -> tuple[list[float], list[int], list[nn.Module], int]:
    layers = make_layers()
    marks = []
    step = PipelineStep(
        layers=layers,
        plan=plan,
        loss_fn=loss_fn,
        example_micro_batch=batches()[0][: plan.batch_per_device, :-1],
        device=torch.device("cpu"),
        mark=lambda *mark: marks.append(mark),
    )
    optimizer = torch.optim.AdamW(step.parameters(), lr=1e-2)
    losses = []
    for batch in batches():
        loss = step.step(batch[:, :-1], batch[:, 1:])
        step.evaluate(batch[:, :-1], batch[:, 1:])
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    own = {id(p) for p in step.parameters()}
    mine = [layer for layer in layers if all(id(p) in own for p in layer.parameters())]
    return losses, [layers.index(layer) for layer in mine], mine, len(marks)


def differences(plan: Plan) -> tuple[float, float, int]:
    losses, layers = train_alone()
    planned_losses, places, planned, marks = train_planned(plan)
    loss = max(abs(a - b) / abs(a) for a, b in zip(losses, planned_losses, strict=True))
    weight = 0.0
    for place, layer in zip(places, planned, strict=True):
        for a, b in zip(layers[place].parameters(), layer.parameters(), strict=True):
            weight = max(weight, ((a - b).abs().max() / a.abs().max()).item())
    return loss, weight, marks


if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    dist.init_process_group("gloo")
    for name, table in json.loads(sys.argv[1]).items():
        loss, weight, marks = differences(Plan.from_json(table))
        if dist.get_rank() in (0, dist.get_world_size() - 1):
            sys.stdout.write(json.dumps([name, dist.get_rank(), loss, weight, marks]) + "\n")
            sys.stdout.flush()
    dist.destroy_process_group()
