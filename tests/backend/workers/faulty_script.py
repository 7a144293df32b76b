"""A training script in which the second process does what the first argument says in step 2."""

import os
import signal
import sys

import torch
from torch import nn

from parplan.backend import enable_advanced_parallelization
from parplan.sim.plan import Plan


class Chained(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(*(nn.Linear(4, 4) for _ in range(4)))

    def forward(self, inputs, targets):
        return nn.functional.mse_loss(self.layers(inputs), targets)


what = sys.argv[1]
plan = Plan(num_stages=2, num_micro_batches=2, batch_per_device=2)
torch.manual_seed(0)
model = enable_advanced_parallelization(Chained(), plan=plan)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for step in range(3):
    if step == 2 and os.environ.get("RANK") == "1":
        if what == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if what == "stopped":
            os.kill(os.getpid(), signal.SIGSTOP)
    loss = model(torch.ones(4, 4), torch.zeros(4, 4))
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    sys.stdout.write(f"step {step}: loss {loss.item():.6f}\n")
    sys.stdout.flush()
