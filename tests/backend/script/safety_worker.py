"""Run by torchrun: what can go wrong without a word when several processes share a script.

Arguments: cases of `CASES`. Every rank prints a line of JSON per case. A plain copy of the model is
trained beside each parallelised one.
"""

import io
import itertools
import json
import random
import sys
import tempfile

import numpy
import torch
import torch.distributed as dist
from torch import nn

from parplan.backend import enable_advanced_parallelization
from parplan.errors import ParplanError
from parplan.sim.plan import Plan

WIDTH, ROWS = 8, 8
PIPELINE = Plan(num_stages=2, num_micro_batches=2, batch_per_device=4)
WHOLE_BATCH = Plan(num_stages=2, num_micro_batches=1, batch_per_device=8, schedule="gpipe")
REPLICAS = Plan(data_parallel=2, num_micro_batches=1, batch_per_device=4)


class Net(nn.Module):
    """Four blocks; `dropout` in the first half of them."""

    def __init__(self, dropout=0.0, tied=False, scale=1.0):
        super().__init__()
        parts = [[nn.Linear(WIDTH, WIDTH), nn.Tanh(), nn.Dropout(dropout)] for _ in range(2)]
        parts += [[nn.Linear(WIDTH, WIDTH), nn.Tanh()] for _ in range(2)]
        self.layers = nn.Sequential(*(nn.Sequential(*part) for part in parts))
        if tied:
            self.layers[3][0].weight = self.layers[0][0].weight
        self.scale = scale

    def forward(self, x, y):
        return self.scale * nn.functional.mse_loss(self.layers(x), y)


def data(n=24):
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(n, WIDTH, generator=generator) for _ in range(2)]


def batch(number=0):
    x, y = data()
    rows = slice(number * ROWS, number * ROWS + ROWS)
    return x[rows], y[rows]


def made(plan=None, seed=0, prepare=lambda model: model, rate=1e-1, **settings):
    """A model, parallelised where there is a plan, and its optimizer, made before."""
    torch.manual_seed(seed)
    model = prepare(Net(**settings))
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=rate)
    if plan is not None:
        model = enable_advanced_parallelization(model, plan=plan)
    return model, optimizer


def step(model, optimizer, x, y):
    loss = model(x, y)
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    return loss.item()


def advance(model, optimizer, number=0):
    return step(model, optimizer, *batch(number))


def saved(state):
    """As it comes back from a file."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file)


def difference(found, expected):
    """Largest relative one of two states; infinite where names or shapes differ."""
    if list(found) != list(expected) or any(found[k].shape != expected[k].shape for k in found):
        return float("inf")
    return max(
        ((found[k] - expected[k]).abs().max() / expected[k].abs().max()).item() for k in found
    )


def shuffled():
    """Two epochs of shuffled batches with dropout: which ones each process has seen."""
    model, optimizer = made(PIPELINE, dropout=0.5)
    loader = torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(*data(20)), batch_size=ROWS, shuffle=True
    )
    seen, losses = [], []
    for _ in range(2):
        for x, y in loader:
            loss = model(x, y)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            seen.append(x[:, 0].tolist())
            losses.append(loss.item())
    model, _ = made(PIPELINE, dropout=0.5)
    with torch.no_grad():
        masks = [model(*batch()).item() for _ in range(3)]
    return {"seen": seen, "losses": losses, "masks": masks}


def drifting(change):
    """The third batch is another one on the second process."""
    model, optimizer = made(PIPELINE)
    advance(model, optimizer)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    x, y = batch(1)
    if dist.get_rank() == 1:
        x, y = change(x, y)
    try:
        model(x, y).backward()
        optimizer.step()
        text = ""
    except ParplanError as error:
        text = str(error)
    return {"text": text, "moved": difference(model.state_dict(), before)}


def other_loop():
    """One process evaluates where the other one trains."""
    model, optimizer = made(REPLICAS)
    advance(model, optimizer)
    try:
        with torch.set_grad_enabled(dist.get_rank() == 0):
            model(*batch(1))
    except ParplanError as error:
        return {"text": str(error)}
    return {"text": ""}


def states(plan, alone):
    """The whole state of model and optimizer, asked for by one process or by all; resumed."""
    plain, plain_optimizer = made(tied=plan is not REPLICAS)
    model, optimizer = made(plan, tied=plan is not REPLICAS)
    for number in range(2):
        advance(plain, plain_optimizer, number)
        advance(model, optimizer, number)
    found = None
    if dist.get_rank() == 0 or not alone:
        found = saved(model.state_dict()), saved(optimizer.state_dict())
    advance(plain, plain_optimizer, 2)
    advance(model, optimizer, 2)
    again, again_optimizer = made(seed=5, tied=plan is not REPLICAS)
    other, other_optimizer = made(PIPELINE, seed=6, tied=plan is not REPLICAS)
    advance(other, other_optimizer)
    everyone = [found]
    dist.broadcast_object_list(everyone)
    for one, its_optimizer in ((again, again_optimizer), (other, other_optimizer)):
        one.load_state_dict(everyone[0][0])
        its_optimizer.load_state_dict(saved(everyone[0][1]))
        advance(one, its_optimizer, 2)
    return {
        "resumed": difference(again.state_dict(), plain.state_dict()),
        "resumed_planned": difference(other.state_dict(), plain.state_dict()),
        "trained": difference(model.state_dict(), plain.state_dict()),
    }


def parts():
    """What would be a part of the model: each has to be refused."""
    model, optimizer = made(PIPELINE)
    advance(model, optimizer)
    texts = {}
    ways = {
        "inner": lambda: model.layers.state_dict(),
        "object": lambda: torch.save(model, tempfile.mktemp()),
        "layers": lambda: torch.save(model.layers, tempfile.mktemp()),
        "copy": lambda: __import__("copy").deepcopy(model),
    }
    for name, way in ways.items():
        try:
            way()
            texts[name] = ""
        except ParplanError as error:
            texts[name] = str(error)
    return texts


def pretrained():
    """save_pretrained on the first process alone, while the other one trains on."""
    import transformers

    config = transformers.GPT2Config(
        n_layer=2, n_embd=16, n_head=2, vocab_size=32, resid_pdrop=0, embd_pdrop=0, attn_pdrop=0
    )
    torch.manual_seed(0)
    model = transformers.GPT2LMHeadModel(config)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    plan = Plan(num_stages=2, num_micro_batches=2, batch_per_device=2)
    model = enable_advanced_parallelization(model, plan=plan)
    tokens = torch.arange(32).reshape(4, 8)
    model(input_ids=tokens, labels=tokens).loss.backward()
    optimizer.step()
    folder = [tempfile.mkdtemp()]
    dist.broadcast_object_list(folder)
    if dist.get_rank() == 0:
        model.save_pretrained(folder[0])
    with torch.no_grad():
        loss = model(input_ids=tokens, labels=tokens).loss.item()
    again = transformers.GPT2LMHeadModel.from_pretrained(folder[0])
    again_loss = again(input_ids=tokens, labels=tokens).loss.item()
    return {"difference": abs(loss - again_loss) / loss}


def bf16_autocast():
    return torch.autocast("cpu", torch.bfloat16)


def fp16_autocast():
    return torch.autocast("cpu", torch.float16)


def precision(plan, context, scaled=False, prepare=lambda model: model, **settings):
    """Training under the script's own autocast and scaler, compared with one process."""
    results = []
    for own in (None, plan):
        model, optimizer = made(own, prepare=prepare, rate=1e-2, **settings)
        scaler = torch.amp.GradScaler("cpu", enabled=scaled, growth_interval=2)
        losses, scales = [], []
        for number in (0, 1, 2, 0, 1, 2):
            x, y = batch(number)
            dtype = next(model.parameters()).dtype
            with context():
                loss = model(x.to(dtype), y.to(dtype))
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
            losses.append(loss.item())
            scales.append(scaler.get_scale())
        del scaler
        results.append((losses, scales, model.state_dict()))
    (losses, scales, weights), (found, found_scales, found_weights) = results
    return {
        "loss": max(abs(a - b) / abs(b) for a, b in zip(found, losses, strict=True)),
        "scales": found_scales == scales,
        "skipped": sum(b < a for a, b in itertools.pairwise(scales)) > 0,
        "weight": difference(found_weights, weights),
        "fp32_loss": bool(abs(losses[0] - torch.tensor(losses[0]).bfloat16().item()) > 0),
    }


def plain_bf16():
    """mixed_precision=True against autocast around the whole model."""
    losses = []
    for own in (None, WHOLE_BATCH):
        torch.manual_seed(0)
        model = Net()
        if own is not None:
            model = enable_advanced_parallelization(model, plan=own, mixed_precision=True)
            losses.append(model(*batch()).item())
        else:
            with bf16_autocast():
                losses.append(model(*batch()).item())
    return {"difference": abs(losses[1] - losses[0]) / losses[0]}


def clamp_by_hooks(model):
    for parameter in model.parameters():
        parameter.register_hook(lambda gradient: gradient.clamp(-1e-3, 1e-3))
    return model


def freeze_first_half(model):
    model.layers[:2].requires_grad_(False)
    return model


def freeze_last_half(model):
    model.layers[2:].requires_grad_(False)
    return model


def unusual(plan, prepare, **settings):
    """Models that are not quite ordinary train as in one process."""
    results = []
    for own in (None, plan):
        model, optimizer = made(own, prepare=prepare, **settings)
        losses = [advance(model, optimizer, number) for number in range(3)]
        results.append((losses, model.state_dict()))
    (losses, weights), (found, found_weights) = results
    return {
        "loss": max(abs(a - b) / abs(b) for a, b in zip(found, losses, strict=True)),
        "weight": difference(found_weights, weights),
    }


def unseeded():
    """Every process has a seed of its own, as in a script that sets none."""
    rank = dist.get_rank()
    for seed in (torch.manual_seed, random.seed, numpy.random.seed):
        seed(rank)
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model = enable_advanced_parallelization(model, plan=PIPELINE)
    loader = torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(*data(20)), batch_size=ROWS, shuffle=True
    )
    losses = [step(model, optimizer, x, y) for _ in range(2) for x, y in loader]
    return {"losses": [*losses, random.random(), numpy.random.rand()]}


def another_method():
    """What calls a part of the model would train every process alone."""
    model, optimizer = made(PIPELINE)
    x, y = batch()
    nn.functional.mse_loss(model.layers(x), y).backward()
    try:
        optimizer.step()
    except ParplanError as error:
        return {"text": str(error)}
    return {"text": ""}


CASES = {
    "unseeded": unseeded,
    "another method": another_method,
    "shuffled": shuffled,
    "another batch": lambda: drifting(lambda x, y: batch(2)),
    "another order": lambda: drifting(lambda x, y: (x.flip(0), y.flip(0))),
    "another shape": lambda: drifting(lambda x, y: (x[:6], y[:6])),
    "another loop": other_loop,
    "states of all": lambda: states(PIPELINE, alone=False),
    "states of one": lambda: states(PIPELINE, alone=True),
    "states of replicas": lambda: states(REPLICAS, alone=True),
    "parts": parts,
    "pretrained": pretrained,
    "autocast": lambda: precision(WHOLE_BATCH, bf16_autocast),
    "scaler": lambda: precision(WHOLE_BATCH, fp16_autocast, scaled=True, scale=1e2),
    "scaler of tiny gradients": lambda: precision(
        WHOLE_BATCH, fp16_autocast, scaled=True, scale=1e-6
    ),
    "bf16 parameters": lambda: precision(
        WHOLE_BATCH, torch.enable_grad, prepare=lambda model: model.bfloat16()
    ),
    "mixed_precision": plain_bf16,
    "hooks": lambda: unusual(PIPELINE, clamp_by_hooks),
    "hooks of replicas": lambda: unusual(REPLICAS, clamp_by_hooks),
    "tied": lambda: unusual(PIPELINE, lambda model: model, tied=True),
    "frozen first": lambda: unusual(PIPELINE, freeze_first_half),
    "frozen last": lambda: unusual(PIPELINE, freeze_last_half),
}

if __name__ == "__main__":
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    for name in sys.argv[1:] or CASES:
        line = {"rank": dist.get_rank(), "case": name, **CASES[name]()}
        sys.stdout.write(json.dumps(line) + "\n")
        sys.stdout.flush()
