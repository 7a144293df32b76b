"""Run by torchrun: kinds of training scripts with the one line, compared with one process.

Arguments: names of `KINDS`, all by default. Every rank prints a line of JSON per kind.
"""

import json
import sys

import torch
import torch.distributed as dist
from torch import nn
from torch.nn import functional

from parplan.backend import enable_advanced_parallelization
from parplan.errors import ParplanError
from parplan.sim.plan import Plan, zero_fields

VOCABULARY, LENGTH, ROWS, STEPS = 32, 8, 6, 3


def random_tokens(number, rows=ROWS, length=LENGTH):
    generator = torch.Generator().manual_seed(number)
    return torch.randint(1, VOCABULARY, (rows, length), generator=generator)


def random_images(number, size=8):
    generator = torch.Generator().manual_seed(number)
    images = torch.randn(ROWS, 3, size, size, generator=generator)
    return images, torch.randint(4, (ROWS,), generator=generator)


class Attention(nn.Module):
    def __init__(self, width, causal):
        super().__init__()
        self.inner, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.causal = causal

    def forward(self, x):
        q, k, v = self.inner(x).chunk(3, -1)
        return self.out(functional.scaled_dot_product_attention(q, k, v, is_causal=self.causal))


class Block(nn.Module):
    def __init__(self, width, causal=True):
        super().__init__()
        self.norm, self.attention = nn.LayerNorm(width), Attention(width, causal)
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x):
        x = x + self.attention(self.norm(x))
        return x + self.down(functional.gelu(self.up(x)))


class NanoGpt(nn.Module):
    """Modules in a ModuleDict, tied ends, and a forward that returns (logits, loss)."""

    def __init__(self):
        super().__init__()
        blocks = nn.ModuleList(Block(16) for _ in range(2))
        places, tokens = nn.Embedding(LENGTH, 16), nn.Embedding(VOCABULARY, 16)
        self.transformer = nn.ModuleDict({"wte": tokens, "wpe": places, "h": blocks})
        self.head = nn.Linear(16, VOCABULARY, bias=False)
        self.transformer["wte"].weight = self.head.weight

    def forward(self, tokens, targets=None):
        places = torch.arange(tokens.shape[1])
        x = self.transformer["wte"](tokens) + self.transformer["wpe"](places)
        for block in self.transformer["h"]:
            x = block(x)
        logits = self.head(x)
        if targets is None:
            return logits, None
        return logits, functional.cross_entropy(logits.flatten(0, 1), targets.flatten())


class Vit(nn.Module):
    def __init__(self):
        super().__init__()
        self.patches = nn.Conv2d(3, 16, 4, 4)
        self.first = nn.Parameter(torch.zeros(1, 1, 16))
        self.blocks = nn.ModuleList(Block(16, causal=False) for _ in range(2))
        self.head = nn.Linear(16, 4)

    def forward(self, images):
        x = self.patches(images).flatten(2).transpose(1, 2)
        x = torch.cat([self.first.expand(len(x), -1, -1), x], 1)
        for block in self.blocks:
            x = block(x)
        return self.head(x[:, 0])


class VitLoss(Vit):
    """Returns the loss; a learned scale that starts at zero is used after the blocks."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.zeros(4))
        self.table = nn.Parameter(torch.randn(5, 16), requires_grad=False)

    def forward(self, images, labels):
        x = self.patches(images).flatten(2).transpose(1, 2)
        x = torch.cat([self.first.expand(len(x), -1, -1), x], 1) + self.table
        for block in self.blocks:
            x = block(x)
        logits = self.head(x[:, 0]) * (1 + self.scale)
        return {"logits": logits, "loss": functional.cross_entropy(logits, labels)}


class SkipsBlocks(NanoGpt):
    """What comes after its blocks needs what comes before them, from the second step on."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.zeros(()))

    def forward(self, tokens, targets=None):
        first = self.transformer["wte"](tokens) + self.transformer["wpe"].weight[: tokens.shape[1]]
        x = first
        for block in self.transformer["h"]:
            x = block(x)
        logits = self.head(x + self.scale * first)
        return logits, functional.cross_entropy(logits.flatten(0, 1), targets.flatten())


class Cnn(nn.Module):
    """A chain whose blocks have different shapes; its forward returns the loss."""

    def __init__(self):
        super().__init__()
        parts = [(3, 8), (8, 16), (16, 16)]
        blocks = (nn.Sequential(nn.Conv2d(a, b, 3, padding=1), nn.ReLU()) for a, b in parts)
        self.layers = nn.Sequential(*blocks, nn.Flatten(), nn.Linear(16 * 64, 4))

    def forward(self, images, labels):
        return functional.cross_entropy(self.layers(images), labels)


class Siamese(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(192, 16), nn.Tanh(), nn.Linear(16, 4))

    def forward(self, x):
        return self.net(x)


class SumLoss(Siamese):
    def forward(self, x, y):
        return functional.cross_entropy(self.net(x), y, reduction="sum")


class Mixed(nn.Module):
    """Its outputs for a row depend on the other rows."""

    def __init__(self):
        super().__init__()
        self.net = nn.Linear(4, 4)

    def forward(self, x):
        return self.net(x - x.mean(0))


def hugging_face(kind, head="AutoModelForCausalLM", **settings):
    import transformers

    config = transformers.AutoConfig.for_model(kind, **settings)
    return getattr(transformers, head).from_config(config)


SIZES = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "vocab_size": VOCABULARY,
}
EXPERTS = {"num_key_value_heads": 2, "num_experts_per_tok": 1}
PATCHES = {"image_size": 8, "patch_size": 4, "num_labels": 4}
NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
OPT = {"ffn_dim": 32, "word_embed_proj_dim": 16, "max_position_embeddings": 32}
T5 = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2, "dropout_rate": 0.0}
START = {"decoder_start_token_id": 0, "pad_token_id": 0}


def compiled_blocks():
    model = Vit()
    for block in model.blocks:
        block.compile(backend="eager")
    return model


def criterion(model, number):
    images, labels = random_images(number)
    return functional.cross_entropy(model(images), labels)


def in_the_model(model, number):
    return model(*random_images(number))


def logits_and_loss(model, number):
    tokens = random_tokens(number)
    logits, loss = model(tokens[:, :-1], tokens[:, 1:])
    assert len(logits) == ROWS
    return loss


def loss_by_name(model, number):
    images, labels = random_images(number)
    return model(labels=labels, images=images)["loss"]


def loss_alone(model, number):
    """The logits are not looked at."""
    tokens = random_tokens(number)
    return model(tokens[:, :-1], tokens[:, 1:])[1]


def twice(model, number):
    images, _ = random_images(number)
    return (model(images) - model(images.flip(1))).square().mean()


def language(model, number):
    tokens = random_tokens(number)
    return model(input_ids=tokens, labels=tokens).loss


def masked_language(model, number):
    """Some rows have more labels than others."""
    tokens = random_tokens(number)
    labels = tokens.clone()
    labels[:4, 2:] = -100
    mask = torch.ones_like(tokens)
    mask[0, :3] = 0
    return model(input_ids=tokens, labels=labels, attention_mask=mask).loss


def left_padded(model, number):
    tokens = random_tokens(number)
    mask = torch.ones_like(tokens)
    mask[1, :3] = 0
    labels = tokens.masked_fill(mask == 0, -100)
    return model(input_ids=tokens, attention_mask=mask, labels=labels).loss


def pixels(model, number):
    images, labels = random_images(number)
    return model(pixel_values=images, labels=labels).loss


def loss_outside(model, number):
    tokens = random_tokens(number)
    logits = model(input_ids=tokens).logits
    return functional.cross_entropy(logits.flatten(0, 1), tokens.flatten())


KINDS = {
    "criterion": (Siamese, criterion),
    "nanoGPT": (NanoGpt, logits_and_loss),
    "ViT": (Vit, criterion),
    "CNN": (Cnn, in_the_model),
    "called twice": (Siamese, twice),
    "compiled": (lambda: torch.compile(Siamese(), backend="eager"), criterion),
    "compiled blocks": (compiled_blocks, criterion),
    "BERT": (
        lambda: hugging_face("bert", "AutoModelForMaskedLM", **SIZES, **NO_DROPOUT),
        masked_language,
    ),
    "T5": (
        lambda: hugging_face("t5", "AutoModelForSeq2SeqLM", vocab_size=VOCABULARY, **T5, **START),
        language,
    ),
    "OPT": (lambda: hugging_face("opt", dropout=0.0, **OPT, **SIZES), language),
    "HF ViT": (
        lambda: hugging_face(
            "vit", "AutoModelForImageClassification", **SIZES, **NO_DROPOUT, **PATCHES
        ),
        pixels,
    ),
    "Mixtral": (
        lambda: hugging_face("mixtral", num_local_experts=2, **EXPERTS, **SIZES),
        language,
    ),
    "Qwen-MoE": (
        lambda: hugging_face(
            "qwen2_moe",
            **EXPERTS,
            **SIZES,
            num_experts=2,
            moe_intermediate_size=16,
            shared_expert_intermediate_size=16,
        ),
        language,
    ),
    "Llama, padded on the left": (
        lambda: hugging_face("llama", num_key_value_heads=2, **SIZES),
        left_padded,
    ),
    "Llama, loss outside": (
        lambda: hugging_face("llama", num_key_value_heads=2, **SIZES),
        loss_outside,
    ),
}


def trained(make, loss_of, line):
    torch.manual_seed(0)
    model = make()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    if line is not None:
        model = enable_advanced_parallelization(model, **line)
    losses = []
    for number in range(STEPS):
        loss = loss_of(model, number)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses, model.state_dict()


def compare(make, loss_of, line=None):
    losses, weights = trained(make, loss_of, None)
    try:
        found, found_weights = trained(make, loss_of, line or {})
    except ParplanError as error:
        return {"refused": str(error)}
    return {
        "loss": max(abs(a - b) / abs(b) for a, b in zip(found, losses, strict=True)),
        "weight": max(
            ((found_weights[k] - w).abs().max() / w.abs().max().clamp_min(1e-3)).item()
            for k, w in weights.items()
            if w.is_floating_point()
        ),
    }


def in_parts(make, loss_of_rows, plan=None):
    """Every process draws its part, as a DistributedSampler has it."""

    def of_parts(model, number):
        rows = slice(dist.get_rank() * 3, dist.get_rank() * 3 + 3)
        return loss_of_rows(model, number, rows)

    losses, weights = trained(make, lambda m, n: loss_of_rows(m, n, slice(None)), None)
    line = {"batch": "part", "plan": plan}
    found, found_weights = trained(make, of_parts, line)
    mean = torch.tensor(found)
    dist.all_reduce(mean)
    mean = (mean / dist.get_world_size()).tolist()
    return {
        "loss": max(abs(a - b) / abs(b) for a, b in zip(mean, losses, strict=True)),
        "weight": max(
            ((found_weights[k] - w).abs().max() / w.abs().max().clamp_min(1e-3)).item()
            for k, w in weights.items()
        ),
    }


def criterion_of_rows(model, number, rows):
    images, labels = random_images(number)
    return functional.cross_entropy(model(images[rows]), labels[rows])


def inner_of_rows(model, number, rows):
    images, labels = random_images(number)
    return model(images[rows], labels[rows])


def sharded():
    """ZeRO-3 of a model that is no chain."""
    losses, _ = trained(NanoGpt, logits_and_loss, None)
    torch.manual_seed(0)
    plan = Plan(data_parallel=2, batch_per_device=3, **zero_fields(3))
    tokens = random_tokens(0)
    model = enable_advanced_parallelization(
        NanoGpt(), plan=plan, example=(tokens[:, :-1], tokens[:, 1:])
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    found = []
    for number in range(STEPS):
        loss = logits_and_loss(model, number)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        found.append(loss.item())
    shapes = {k: list(v.shape) for k, v in model.state_dict().items()}
    expected = {k: list(v.shape) for k, v in NanoGpt().state_dict().items()}
    return {
        "loss": max(abs(a - b) / abs(b) for a, b in zip(found, losses, strict=True)),
        "weight": 0.0 if shapes == expected else 1.0,
    }


PIPELINE = Plan(num_stages=2, num_micro_batches=3, batch_per_device=2)

MORE = {
    "DistributedSampler": lambda: in_parts(Siamese, criterion_of_rows),
    "DistributedSampler, pipeline": lambda: in_parts(Cnn, inner_of_rows, PIPELINE),
    "nanoGPT, ZeRO-3": sharded,
    "rows that depend on each other": lambda: compare(
        Mixed, lambda model, number: model(random_images(number)[0][:, 0, 0, :4]).square().mean()
    ),
    "nanoGPT, two stages": lambda: compare(NanoGpt, loss_alone, {"num_stages": 2}),
    "nanoGPT, a plan": lambda: compare(NanoGpt, loss_alone, {"plan": PIPELINE}),
    "ViT, a plan": lambda: compare(VitLoss, loss_by_name, {"plan": PIPELINE}),
    "BERT, a plan": lambda: compare(
        lambda: hugging_face("bert", "AutoModelForMaskedLM", **SIZES, **NO_DROPOUT),
        language,
        {"plan": PIPELINE},
    ),
    "HF ViT, a plan": lambda: compare(KINDS["HF ViT"][0], pixels, {"plan": PIPELINE}),
    "logits of a pipeline": lambda: compare(NanoGpt, logits_and_loss, {"plan": PIPELINE}),
    "a pipeline past which values go": lambda: compare(SkipsBlocks, loss_alone, {"num_stages": 2}),
    "a pipeline of what is no chain": lambda: compare(Siamese, criterion, {"num_stages": 2}),
    "sum of losses": lambda: compare(SumLoss, lambda model, number: model(*random_images(number))),
}


if __name__ == "__main__":
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    for name in sys.argv[1:] or (*KINDS, *MORE):
        found = MORE[name]() if name in MORE else compare(*KINDS[name])
        line = {"rank": dist.get_rank(), "kind": name, **found}
        sys.stdout.write(json.dumps(line) + "\n")
        sys.stdout.flush()
