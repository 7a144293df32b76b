"""An ordinary training script. Without its marked line it trains on one process."""

import sys

import torch
from torch import nn

from parplan.backend import enable_advanced_parallelization
from parplan.sim.plan import Plan


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)

    def forward(self, x):
        return x + self.down(torch.tanh(self.up(self.norm(x))))


class Classifier(nn.Module):
    def __init__(self):
        super().__init__()
        blocks = [Block(16) for _ in range(4)]
        self.layers = nn.Sequential(nn.Linear(8, 16), *blocks, nn.Linear(16, 10))

    def forward(self, x, y):
        return nn.functional.cross_entropy(self.layers(x), y)


torch.manual_seed(0)
model = Classifier()
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
model = enable_advanced_parallelization(model, plan=Plan.from_json(eval(sys.argv[1])))

for step in range(5):
    x, y = torch.randn(16, 8), torch.randint(10, (16,))
    loss = model(x, y)
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    with torch.no_grad():
        after = model(x, y)
    sys.stdout.write(f"{step} {loss.item():.6f} {after.item():.6f}\n")
