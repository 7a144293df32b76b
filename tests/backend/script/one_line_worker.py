"""Run by torchrun: usual training loops on a parallelised model and on a plain one, compared.

Argument: JSON of {plan's name: plan}. Every rank prints a line of JSON per plan and loop. All in
float64 (see parity_worker.py).
"""

import json
import sys

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.tensor import DTensor

from parplan.backend import enable_advanced_parallelization
from parplan.errors import ParplanError
from parplan.sim.plan import Plan


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.up = nn.Linear(width, 2 * width)
        self.down = nn.Linear(2 * width, width)

    def forward(self, x):
        return x + self.down(torch.tanh(self.up(self.norm(x))))


class Classifier(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(8, 16), *(Block(16) for _ in range(4)), nn.Linear(16, 5)
        )

    def forward(self, x, y):
        return nn.functional.cross_entropy(self.layers(x), y)


def make_batches(sizes):
    generator = torch.Generator().manual_seed(3)
    return [
        (torch.randn(n, 8, generator=generator), torch.randint(5, (n,), generator=generator))
        for n in sizes
    ]


def usual(model, optimizer):
    for batch in make_batches([16] * 5):
        loss = model(*batch)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        yield loss


def accumulating(model, optimizer):
    for batch in make_batches([32] * 5):
        for x, y in zip(batch[0].chunk(2), batch[1].chunk(2), strict=True):
            loss = model(x, y)
            (loss / 2).backward()
            yield loss
        optimizer.step()
        optimizer.zero_grad()


def zeroing_after_forward(model, optimizer):
    for batch in make_batches([16] * 5):
        loss = model(*batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        yield loss


def evaluating(model, optimizer):
    for batch in make_batches([16] * 5):
        model.train()
        model(*batch)  # computed, but nothing is made of it
        loss = model(*batch)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        yield loss
        model.eval()
        with torch.no_grad():
            yield model(*batch)


def smaller_last_batch(model, optimizer):
    for batch in make_batches([16, 16, 16, 6]):
        loss = model(*batch)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        yield loss


LOOPS = (usual, accumulating, zeroing_after_forward, evaluating, smaller_last_batch)


def train(loop, plan, optimizer_first):
    """Losses and final weights by name; without a plan: of an ordinary model.

    plan: or a dictionary of arguments, by which it is searched.
    """
    # Only the first process starts from the right weights: the others have to be given them.
    torch.manual_seed(dist.get_rank() if plan else 0)
    model = Classifier()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    if plan:
        example = None if optimizer_first else make_batches([16])[0]
        asked = plan if isinstance(plan, dict) else {"plan": plan}
        model = enable_advanced_parallelization(model, example=example, **asked)
        if not optimizer_first:
            optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses = [loss.item() for loss in loop(model, optimizer)]
    state = model.state_dict()
    return losses, {
        name: value.full_tensor() if isinstance(value, DTensor) else value
        for name, value in state.items()
    }


def compare(loop, plan, optimizer_first):
    expected_losses, expected = train(loop, None, True)
    losses, weights = train(loop, plan, optimizer_first)
    pairs = zip(losses, expected_losses, strict=True)
    return {
        "loss": max(abs(a - b) / abs(b) for a, b in pairs),
        "weight": max(
            ((value - expected[name]).abs().max() / expected[name].abs().max()).item()
            for name, value in weights.items()
        ),
        "names": list(weights),
        "all_names": list(expected),
    }


def error_of_different_batches(plan):
    model = enable_advanced_parallelization(Classifier(), plan=plan)
    torch.manual_seed(dist.get_rank())
    try:
        model(torch.randn(16, 8), torch.randint(5, (16,)))
    except ParplanError as error:
        return str(error)
    return ""


def report(**line):
    sys.stdout.write(json.dumps({"rank": dist.get_rank(), **line}) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    dist.init_process_group("gloo")
    for name, table in json.loads(sys.argv[1]).items():
        for loop in LOOPS:
            # Parameters that are sharded are replaced, so the optimizer comes after them.
            for optimizer_first in (False,) if "distribute_gradient" in table else (True, False):
                found = compare(loop, Plan.from_json(table), optimizer_first)
                report(plan=name, loop=loop.__name__, optimizer_first=optimizer_first, **found)
        if "distribute_gradient" not in table:
            report(plan=name, loop="error", text=error_of_different_batches(Plan.from_json(table)))
    asked = {"distribute_parameter": True, "pipeline_parallel": True, "num_stages": "auto"}
    asked |= {"num_micro_batches": "auto", "activation_recomputation": "auto"}
    report(plan="asked", loop="usual", **compare(usual, asked, False))
    dist.destroy_process_group()
