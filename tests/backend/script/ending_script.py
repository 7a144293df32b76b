"""A training script whose first process alone saves at the end; then it does what is asked for."""

import os
import sys

import torch
from torch import nn

from parplan.backend import enable_advanced_parallelization
from parplan.sim.plan import Plan


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(*(nn.Linear(4, 4) for _ in range(4)))

    def forward(self, inputs, targets):
        return nn.functional.mse_loss(self.layers(inputs), targets)


first = os.environ.get("RANK", "0") == "0"
torch.manual_seed(0)
model = Net()
plan = Plan(num_stages=2, num_micro_batches=2, batch_per_device=2)
model = enable_advanced_parallelization(model, plan=plan)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
steps = 3 if first and sys.argv[1] == "longer" else 2
for _ in range(steps):
    model(torch.ones(4, 4), torch.zeros(4, 4)).backward()
    optimizer.step()
    optimizer.zero_grad()
if first and sys.argv[1] == "saving":
    torch.save(model.state_dict(), "model.pt")
if sys.argv[1] == "status":
    sys.exit(3)
