"""Run by torchrun: training with clipped gradients, a schedule of the learning rate, a batch that
does not divide, and a checkpoint that another plan goes on from; compared with a plain script.

Argument: JSON of {case: {"model": ..., "before": plan, "after": plan}}. Every rank prints a line of
JSON per case. All in float64 (see parity_worker.py).
"""

import json
import sys
import tempfile
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.tensor import DTensor

from parplan.backend import enable_advanced_parallelization
from parplan.backend.models.gpt import gpt_layers, initialise
from parplan.backend.runtime.checkpoint import load_checkpoint, save_checkpoint
from parplan.sim.models.model import Model
from parplan.sim.plan import Plan

VOCABULARY, LENGTH, BATCH = 32, 8, 8

SIZES = {"num_layers": 4, "hidden_size": 16, "num_heads": 4, "num_kv_heads": 2, "ffn_size": 32}


class Own(nn.Module):
    """parplan's own layers, with tied ends."""

    def __init__(self, seed):
        super().__init__()
        model = Model(
            **SIZES,
            name="own",
            vocab_size=VOCABULARY,
            mlp="gated",
            norm="rmsnorm",
            bias=False,
            tied_embeddings=True,
            source="",
        )
        layers = gpt_layers(model, LENGTH)
        initialise(layers, seed)
        self.layers = nn.Sequential(*layers)

    def forward(self, tokens, targets):
        logits = self.layers(tokens).flatten(0, 1)
        return nn.functional.cross_entropy(logits, targets.flatten())


def hugging_face(kind, seed):
    import transformers

    torch.manual_seed(seed)
    sizes = {
        "num_hidden_layers": 4,
        "hidden_size": 16,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 32,
        "vocab_size": VOCABULARY,
    }
    if kind == "gpt2":
        names = ("resid_pdrop", "embd_pdrop", "attn_pdrop")
        config = transformers.GPT2Config(
            n_layer=4, n_embd=16, n_head=4, vocab_size=VOCABULARY, **dict.fromkeys(names, 0.0)
        )
    else:
        config = transformers.AutoConfig.for_model(kind, **sizes, tie_word_embeddings=False)
    return transformers.AutoModelForCausalLM.from_config(config)


def make_model(kind, seed):
    return Own(seed) if kind == "own" else hugging_face(kind, seed)


def batches():
    generator = torch.Generator().manual_seed(4)
    for size in (BATCH, BATCH, BATCH - 3, BATCH, BATCH - 1, BATCH):
        yield torch.randint(VOCABULARY, (size, LENGTH), generator=generator)


def loss_of(model, kind, tokens):
    if kind == "own":
        return model(tokens, tokens.roll(-1, 1))
    labels = tokens.clone()
    labels[0, 3:] = -100  # micro-batches with fewer labels
    return model(input_ids=tokens, labels=labels, attention_mask=torch.ones_like(tokens)).loss


def started(kind, seed, plan):
    model = make_model(kind, seed)
    if plan:
        tokens = next(batches())
        example = tokens, (tokens.roll(-1, 1) if kind == "own" else tokens)
        model = enable_advanced_parallelization(model, plan=Plan.from_json(plan), example=example)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 6)
    return model, optimizer, schedule


def train(kind, state, part):
    model, optimizer, schedule = state
    found = []
    for tokens in part:
        loss = loss_of(model, kind, tokens)
        (loss / 2).backward()
        (loss_of(model, kind, tokens) / 2).backward()
        norm = nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        with torch.no_grad():
            after = loss_of(model, kind, tokens)
        found.append((loss.item(), norm.item(), after.item()))
    return found


def whole(value):
    return value.full_tensor() if isinstance(value, DTensor) else value


def compare(case, folder):
    kind = case["model"]
    data = list(batches())
    plain = started(kind, 0, None)
    expected = train(kind, plain, data)
    state = started(kind, 0, case["before"])
    found = train(kind, state, data[:3])
    save_checkpoint(folder, state[0], state[1], schedule=state[2], step=3)
    state = started(kind, 1, case["after"])
    more = load_checkpoint(folder, state[0], state[1], schedule=state[2])
    found += train(kind, state, data[3:])
    pairs = [
        (a, b) for x, y in zip(found, expected, strict=True) for a, b in zip(x, y, strict=True)
    ]
    weights = plain[0].state_dict()
    # Split blocks have their rows in another order: read back by a model without a plan.
    save_checkpoint(folder, state[0], state[1])
    again = make_model(kind, 2)
    load_checkpoint(folder, again)
    return {
        "more": more,
        "difference": max(abs(a - b) / abs(b) for a, b in pairs),
        "clipped": min(norm for _, norm, _ in expected),
        "weight": max(
            ((value - weights[name]).abs().max() / weights[name].abs().max()).item()
            for name, value in again.state_dict().items()
        ),
        "names": len(state[0].state_dict()),
        "all_names": len(weights),
    }


if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    dist.init_process_group("gloo")
    for name, case in json.loads(sys.argv[1]).items():
        folders = [tempfile.mkdtemp() if dist.get_rank() == 0 else None]
        dist.broadcast_object_list(folders)
        found = compare(case, Path(folders[0]) / "checkpoint")
        line = json.dumps({"case": name, "rank": dist.get_rank(), **found})
        sys.stdout.write(line + "\n")
        sys.stdout.flush()
    dist.destroy_process_group()
