"""Run by torchrun: models whose calls and outputs have unusual forms, compared with one process.

Arguments: names of `FORMS`, all by default. Every rank prints a line of JSON per form.
"""

import json
import os
import sys
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn import functional

from parplan.backend import enable_advanced_parallelization as parallelised
from parplan.errors import ParplanError

WIDTH, CLASSES, LENGTH, WORDS = 6, 3, 4, 16
SIZES = (8, 7, 1, 8)
"""Rows of the batches; of the third one a replica has none."""


def batches(*shape):
    generator = torch.Generator().manual_seed(3)
    for rows in SIZES:
        values = torch.randn(rows, *shape, generator=generator)
        yield values, torch.randint(CLASSES, (rows,), generator=generator)


def net():
    return nn.Sequential(nn.Linear(WIDTH, 12), nn.Tanh(), nn.Linear(12, CLASSES))


class Holder(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = net()


@dataclass
class Outputs:
    logits: Any
    loss: Any
    seen: int


class DataclassOut(Holder):
    def forward(self, x, y):
        logits = self.net(x)
        return Outputs(logits, functional.cross_entropy(logits, y), len(x))


@dataclass
class Sample:
    values: Any
    labels: Any
    names: list


class DataclassIn(Holder):
    def forward(self, sample):
        assert len(sample.names) == len(sample.values)
        return functional.cross_entropy(self.net(sample.values), sample.labels)


class SumLoss(Holder):
    def forward(self, x, y):
        return functional.cross_entropy(self.net(x), y, reduction="sum") / 10


class EachLoss(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = net()

    def forward(self, x, y):
        return functional.cross_entropy(self.layers(x), y, reduction="none")


class Ignoring(Holder):
    """The mean over labels that count; all count in the first batch."""

    def forward(self, x, y):
        return functional.cross_entropy(self.net(x), y, ignore_index=-1)


class Recurrent(nn.Module):
    """Hidden states have their rows in the second dimension."""

    def __init__(self):
        super().__init__()
        self.cell = nn.LSTM(WIDTH, WIDTH, 2, batch_first=True)
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, x, state):
        x, state = self.cell(x, state)
        return self.head(x[:, -1]), state


class ColumnsFirst(nn.Module):
    """Sequences in columns, as long as there are rows, and a mask that all share."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(WORDS, 8)
        self.block = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0)
        self.head = nn.Linear(8, WORDS)

    def forward(self, tokens, mask):
        return self.head(self.block(self.table(tokens), src_mask=mask))


class Drawing(nn.Module):
    """Draws noise, and returns what does not depend on it by much."""

    def __init__(self):
        super().__init__()
        self.encoder, self.decoder = nn.Linear(WIDTH, 4), nn.Linear(2, WIDTH)

    def forward(self, x):
        middle, spread = self.encoder(x).chunk(2, -1)
        noise = torch.randn_like(middle) + torch.rand(len(x), 1)
        return self.decoder(middle + 0 * spread.exp() * noise), middle


def convolutions():
    return nn.Sequential(
        *(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(8 * 16, 8), nn.BatchNorm1d(8, momentum=None)),
        nn.Linear(8, CLASSES),
    )


def criterion(model, x, y):
    return functional.cross_entropy(model(x), y)


def inner(model, x, y):
    found = model(x, y)
    if isinstance(found, Outputs):
        assert found.seen == len(x)
        return found.loss
    return found.mean()


def sampled(model, x, y):
    return model(Sample(x, y, ["name"] * len(x)))


def ignoring(model, x, y):
    if len(x) == 7:
        y = y.clone()
        y[:5] = -1
    return model(x, y)


def recurrent(model, x, y):
    state = (torch.zeros(2, len(x), WIDTH), torch.zeros(2, len(x), WIDTH))
    first, state = model(x, state)
    second, _ = model(x, state)
    return functional.cross_entropy(first, y) + functional.cross_entropy(second, y)


def columns(model, x, y):
    rows = len(x)
    tokens = (x[:, :LENGTH].abs() * 7).long().clamp(max=WORDS - 1).T
    if rows == 8:
        tokens = tokens.repeat(2, 1)
    mask = nn.Transformer.generate_square_subsequent_mask(len(tokens))
    logits = model(tokens, mask)
    return functional.cross_entropy(logits.flatten(0, 1), tokens.flatten())


def drawing(model, x, y):
    found, middle = model(x)
    return functional.mse_loss(found, x) + middle.square().mean()


def second_backward(model, x, y):
    logits = model(x)
    functional.cross_entropy(logits, y).backward(retain_graph=True)
    return logits.square().mean()


def gradient_penalty(model, x, y):
    x = x.clone().requires_grad_()
    (slope,) = torch.autograd.grad(model(x).sum(), x, create_graph=True)
    return (slope.norm(dim=1) - 1).square().mean()


def through_two(model, x, y):
    """A part of the loss goes through another parallelised model into this one."""
    judge = model.__dict__["judge"]
    return judge(model(x)).square().mean() + judge(x[:, :CLASSES]).mean()


def judged():
    model = net()
    model.__dict__["judge"] = nn.Sequential(nn.Linear(CLASSES, 4), nn.Tanh(), nn.Linear(4, 1))
    return model


FORMS = {
    "dataclass out": (DataclassOut, inner, (WIDTH,)),
    "dataclass in": (DataclassIn, sampled, (WIDTH,)),
    "sum of losses": (SumLoss, inner, (WIDTH,)),
    "loss of each row": (EachLoss, inner, (WIDTH,)),
    "labels that do not count": (Ignoring, ignoring, (WIDTH,)),
    "hidden states": (Recurrent, recurrent, (LENGTH, WIDTH)),
    "columns": (ColumnsFirst, columns, (WIDTH,)),
    "draws": (Drawing, drawing, (WIDTH,)),
    "BatchNorm": (convolutions, criterion, (3, 4, 4)),
    "two models": (judged, through_two, (WIDTH,)),
    "second backward": (net, second_backward, (WIDTH,)),
    "gradient penalty": (net, gradient_penalty, (WIDTH,)),
    "compiled after the line": (net, criterion, (WIDTH,)),
}


def trained(name, line):
    os.environ["PARPLAN_ENABLE_ADVANCED_PARALLELIZATION"] = str(int(line))
    make, loss_of, shape = FORMS[name]
    torch.manual_seed(0)
    model = make()
    others = [part for key, part in vars(model).items() if key == "judge"]
    parameters = [p for part in (model, *others) for p in part.parameters()]
    optimizer = torch.optim.SGD(parameters, lr=0.1)
    for part in others:
        model.__dict__["judge"] = parallelised(part)
    model = parallelised(model)
    if line and name == "compiled after the line":
        model = torch.compile(model, backend="eager")
    losses = []
    for x, y in batches(*shape):
        if len(x) == 1 and name == "BatchNorm":
            continue  # which torch refuses as well
        loss = loss_of(model, x, y)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    model = getattr(model, "_orig_mod", model)
    states = [part.state_dict() for part in (model, *others)]
    return losses, [value for state in states for value in state.values()]


def of_accelerate(line):
    """Accelerate draws the parts, and steps; it is told not to wrap the model."""
    import accelerate

    os.environ["PARPLAN_ENABLE_ADVANCED_PARALLELIZATION"] = str(int(line))
    torch.manual_seed(0)
    data = torch.utils.data.TensorDataset(*next(iter(batches(WIDTH))))
    model = net()
    rows, losses = 4, []
    if line:
        accelerator = accelerate.Accelerator(cpu=True)
        rows = 2
        model = parallelised(model, batch="part")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    loader = torch.utils.data.DataLoader(data, batch_size=rows)
    if line:
        model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    for x, y in loader:
        loss = criterion(model, x, y)
        if line:
            accelerator.backward(loss)
            loss = accelerator.gather(loss.detach()).mean()
        else:
            loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses, list(model.state_dict().values())


def of_trainer(line):
    """The same by the Trainer of Hugging Face."""
    import transformers

    os.environ["PARPLAN_ENABLE_ADVANCED_PARALLELIZATION"] = str(int(line))
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = transformers.LlamaConfig(intermediate_size=32, vocab_size=WORDS, **sizes)
    model = transformers.LlamaForCausalLM(config)
    tokens = torch.randint(WORDS, (16, 6), generator=torch.Generator().manual_seed(5))
    if not line:
        optimizer, losses = torch.optim.AdamW(model.parameters(), lr=5e-5, weight_decay=0), []
        for rows in tokens.split(4):
            loss = model(input_ids=rows, labels=rows).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.item())
        return losses, list(model.state_dict().values())
    model = parallelised(model, batch="part")
    arguments = transformers.TrainingArguments(
        output_dir="trained",
        save_strategy="no",
        use_cpu=True,
        report_to=[],
        per_device_train_batch_size=2,
        num_train_epochs=1,
        logging_steps=1,
        lr_scheduler_type="constant",
        train_sampling_strategy="sequential",
    )
    data = [{"input_ids": row, "labels": row} for row in tokens]
    trainer = transformers.Trainer(model=model, args=arguments, train_dataset=data)
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return losses, list(model.state_dict().values())


def compare(name):
    if name in TRAINERS:
        (losses, weights), (found, found_weights) = (TRAINERS[name](line) for line in (False, True))
        return differences(losses, weights, found, found_weights)
    losses, weights = trained(name, False)
    try:
        found, found_weights = trained(name, True)
    except ParplanError as error:
        return {"refused": str(error)}
    return differences(losses, weights, found, found_weights)


def differences(losses, weights, found, found_weights):
    return {
        "loss": max(abs(a - b) / abs(b) for a, b in zip(found, losses, strict=True)),
        "weight": max(
            ((a - b).abs().max() / b.abs().max().clamp_min(1e-3)).item()
            for a, b in zip(found_weights, weights, strict=True)
        ),
    }


TRAINERS = {"Accelerate": of_accelerate, "Trainer": of_trainer}

if __name__ == "__main__":
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    for form in sys.argv[1:] or FORMS:
        line = {"rank": dist.get_rank(), "form": form, **compare(form)}
        sys.stdout.write(json.dumps(line) + "\n")
        sys.stdout.flush()
