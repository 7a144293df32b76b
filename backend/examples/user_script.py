"""Training scripts as users write them, with the one line: what `parplan benchmark --scripts` runs.

Arguments: the name of one of `KINDS`; a plan as JSON, or nothing for the line's own search; a file
for the median step of DistributedDataParallel by hand, which then trains instead of the line.
"""

import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

from parplan.backend.script.one_line import enable_advanced_parallelization
from parplan.sim.plan import Plan

ROWS, STEPS, WARM_UP = 16, 14, 4


def _encoder(width: int, heads: int) -> nn.Module:
    return nn.TransformerEncoderLayer(
        width, heads, 4 * width, dropout=0.0, batch_first=True, norm_first=True
    )


class Language(nn.Module):
    """A language model in one `nn.Sequential`, or with its blocks in a `ModuleList`."""

    def __init__(self, width: int, blocks: int, vocabulary: int, *, listed: bool) -> None:
        super().__init__()
        self.listed = listed
        layers = [_encoder(width, 4) for _ in range(blocks)]
        table, head = nn.Embedding(vocabulary, width), nn.Linear(width, vocabulary)
        if listed:
            self.table, self.blocks, self.head = table, nn.ModuleList(layers), head
        else:
            self.layers = nn.Sequential(table, *layers, head)

    def forward(self, tokens: Any, targets: torch.Tensor) -> torch.Tensor:
        """The mean loss of a batch."""
        if not self.listed:
            logits = self.layers(tokens)
        else:
            values = self.table(tokens)
            for block in self.blocks:
                values = block(values)
            logits = self.head(values)
        return functional.cross_entropy(logits.flatten(0, 1), targets.flatten())


class Vision(nn.Module):
    """A vision transformer that returns the loss."""

    def __init__(self, width: int, blocks: int) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, 4, 4)
        self.first = nn.Parameter(torch.zeros(1, 1, width))
        self.blocks = nn.ModuleList(_encoder(width, 4) for _ in range(blocks))
        self.head = nn.Linear(width, 10)

    def forward(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """The mean loss of a batch."""
        values = self.patches(images).flatten(2).transpose(1, 2)
        values = torch.cat([self.first.expand(len(values), -1, -1), values], 1)
        for block in self.blocks:
            values = block(values)
        return functional.cross_entropy(self.head(values[:, 0]), labels)


class Classifier(nn.Module):
    """Layers one after the other, and the loss."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, values: Any, labels: torch.Tensor) -> torch.Tensor:
        """The mean loss of a batch."""
        return functional.cross_entropy(self.layers(values), labels)


def _perceptron(width: int, depth: int) -> nn.Module:
    blocks = (nn.Sequential(nn.Linear(width, width), nn.GELU()) for _ in range(depth))
    return Classifier(*blocks, nn.Linear(width, 10))


def _convolutions() -> nn.Module:
    blocks = (
        nn.Sequential(nn.Conv2d(a, b, 3, padding=1), nn.ReLU()) for a, b in ((3, 32), (32, 32))
    )
    return Classifier(*blocks, nn.Flatten(), nn.Linear(32 * 16 * 16, 10))


def _tokens(length: int, vocabulary: int) -> tuple[torch.Tensor, torch.Tensor]:
    tokens = torch.randint(vocabulary, (ROWS, length + 1))
    return tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()


def _labelled(*shape: int) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(ROWS, *shape), torch.randint(10, (ROWS,))


Batch = tuple[torch.Tensor, torch.Tensor]

KINDS: dict[str, tuple[Callable[[], nn.Module], Callable[[], Batch]]] = {
    "language": (lambda: Language(192, 6, 512, listed=False), lambda: _tokens(64, 512)),
    "deep": (lambda: Language(96, 12, 256, listed=False), lambda: _tokens(32, 256)),
    "wide": (lambda: Language(384, 4, 256, listed=False), lambda: _tokens(32, 256)),
    "vocabulary": (lambda: Language(96, 4, 8192, listed=False), lambda: _tokens(32, 8192)),
    "list of blocks": (lambda: Language(192, 6, 512, listed=True), lambda: _tokens(64, 512)),
    "vision": (lambda: Vision(192, 6), lambda: _labelled(3, 32, 32)),
    "perceptron": (lambda: _perceptron(1024, 6), lambda: _labelled(1024)),
    "convolutions": (_convolutions, lambda: _labelled(3, 16, 16)),
}


def main(kind: str, plan: str = "", by_hand: str = "") -> None:
    """Train for a few steps."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    make, batch_of = KINDS[kind]
    model = make()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    rows = slice(None)
    if by_hand:
        dist.init_process_group("gloo")
        part = ROWS // dist.get_world_size()
        rows = slice(dist.get_rank() * part, (dist.get_rank() + 1) * part)
        model = DistributedDataParallel(model)
    else:
        given = Plan.from_json(json.loads(plan), "plan") if plan else None
        model = enable_advanced_parallelization(model, plan=given)
    seconds = []
    for _ in range(STEPS):
        batch = batch_of()
        if by_hand:
            dist.barrier()
        start_s = time.perf_counter()
        model(*(part[rows] for part in batch)).backward()
        optimizer.step()
        seconds.append(time.perf_counter() - start_s)
        optimizer.zero_grad()
    if by_hand:
        if dist.get_rank() == 0:
            Path(by_hand).write_text(str(statistics.median(seconds[WARM_UP:])))
        dist.barrier()
        dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
