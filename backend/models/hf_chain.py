"""Causal language models of Hugging Face transformers as chains of layers.

What happens around the decoder layers (embeddings, positions, masks, the loss) stays the model's
own code: it runs with stand-ins for the layers, so that any architecture works whose decoder layers
pass one tensor on and get the rest as arguments.
"""

import contextlib
import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import _disable_current_modes

from parplan.backend.models.chain import Chain, NoChainError
from parplan.errors import ParplanError

INSTALL = "Hugging Face models need transformers: pip install 'parplan[transformers]'"

Arguments = tuple[tuple[Any, ...], dict[str, Any]]


def hf_chain(model: nn.Module) -> Chain:
    """The chain of a causal language model: embedding, decoder layers, head.

    Its layers share modules and parameters with `model`, whose names stay as they are. The loss of
    (logits, labels) is the model's own, which shifts the labels by one token. Raises `ParplanError`
    for an architecture that is not a chain, naming the module.
    """
    base, blocks_name, norm_name = _parts(model)
    blocks: Any = base.get_submodule(blocks_name)
    around = _Around(base, blocks_name, norm_name)
    layers = [
        HfEmbedding(around),
        *(HfBlock(block, index, around) for index, block in enumerate(blocks)),
        HfHead(model, base, norm_name),
    ]
    return Chain(layers=tuple(layers), num_first=1, num_last=1, loss_fn=HfLoss(model))


def hf_model(config: Any, dtype: torch.dtype = torch.float32) -> nn.Module:
    """A causal language model of a config, or of a config.json, with random weights.

    Raises `ParplanError` without transformers, and for a config that it does not know.
    """
    try:
        from transformers import AutoConfig, AutoModelForCausalLM
    except ImportError:
        raise ParplanError(INSTALL) from None
    try:
        if isinstance(config, str | Path):
            config = AutoConfig.from_pretrained(str(Path(config).resolve()))
        made: nn.Module = AutoModelForCausalLM.from_config(config, dtype=dtype)  # type: ignore[no-untyped-call]
    except (ValueError, OSError, KeyError) as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise ParplanError(f"transformers cannot build this model: {lines[0]}") from error
    return made


class _Seen(nn.Module):
    """Stands for a decoder layer and keeps what it was called with."""

    def __init__(self, calls: list[Arguments]) -> None:
        super().__init__()
        self.calls = calls
        self.in_tuples = False

    def forward(self, values: torch.Tensor, *more: Any, **named: Any) -> Any:
        self.calls.append(((values, *more), named))
        return (values,) if self.in_tuples else values


class _Around(nn.Module):
    """The base model with stand-ins for its layers and its last normalisation."""

    def __init__(self, base: nn.Module, blocks_name: str, norm_name: str) -> None:
        super().__init__()
        self.calls: list[Arguments] = []
        self.shell = _shallow(base)
        blocks: Any = base.get_submodule(blocks_name)
        self.stand_ins = [_Seen(self.calls) for _ in blocks]
        setattr(self.shell, blocks_name, nn.ModuleList(self.stand_ins))
        setattr(self.shell, norm_name, nn.Identity())
        # Without embeddings, which may be on another process: not a child, so that they stay there.
        self.__dict__["bare"] = _shallow(self.shell)
        for name, child in list(self.shell.named_children()):
            if next(child.parameters(), None) is not None:
                setattr(self.bare, name, _Zeros(self))
        self.known: tuple[Any, list[Arguments]] = (None, [])
        self.hidden_size = 0

    def embed(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return the input of the first decoder layer."""
        values: torch.Tensor = self._run(self.shell, input_ids=tokens)[0][0][0]
        return values

    def arguments(self, index: int, values: torch.Tensor) -> Arguments:
        """Return the arguments of layer `index` beside `values` (batch, seq_len, hidden).

        Equal for all micro-batches of a shape, so it is computed once.
        """
        fake = isinstance(values, FakeTensor)
        key = (values.shape, values.dtype, values.device, torch.is_autocast_enabled())
        if fake or self.known[0] != key:
            self.hidden_size = values.shape[-1]
            # Not a part of the layer, so that recomputation does not look for it.
            unseen = contextlib.nullcontext() if fake else _disable_current_modes()
            with torch.no_grad(), unseen:
                calls = self._run(self.bare, inputs_embeds=values.detach())
            if fake:  # only valid under its own mode
                return calls[index]
            self.known = (key, [((None, *more), named) for (_, *more), named in calls])
        return self.known[1][index]

    def _run(self, shell: Any, **inputs: torch.Tensor) -> list[Arguments]:
        """The calls of all layers, which give tensors or tuples of which the first counts (BLOOM).

        With tensors instead, the next layer of BLOOM would get less of the batch.
        """
        self.calls.clear()
        try:
            try:
                shell(**inputs, use_cache=False)
            except IndexError:
                if self.stand_ins[0].in_tuples:
                    raise
            shapes = [args[0].shape for args, _ in self.calls]
            whole = len(shapes) == len(self.stand_ins) and len(set(shapes)) == 1
            if not whole and not self.stand_ins[0].in_tuples:
                for stand_in in self.stand_ins:
                    stand_in.in_tuples = True
                return self._run(shell, **inputs)
            return list(self.calls)
        finally:
            self.calls.clear()


class _Zeros(nn.Module):
    """Stands for embeddings whose values do not matter."""

    around: _Around

    def __init__(self, around: _Around) -> None:
        super().__init__()
        self.__dict__["around"] = around

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        if values.is_floating_point():
            return values
        return torch.zeros(*values.shape, self.around.hidden_size, device=values.device)


class HfEmbedding(nn.Module):
    """Everything before the first decoder layer."""

    def __init__(self, around: _Around) -> None:
        super().__init__()
        self.around = around

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """(batch, seq_len) -> (batch, seq_len, hidden)."""
        return self.around.embed(tokens)


class HfBlock(nn.Module):
    """One decoder layer with the arguments that its model would give it."""

    around: _Around

    def __init__(self, block: nn.Module, index: int, around: _Around) -> None:
        super().__init__()
        self.block, self.index = block, index
        # Not a child: embeddings do not belong to this layer.
        self.__dict__["around"] = around

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """(batch, seq_len, hidden) -> the same."""
        (_, *more), named = self.around.arguments(self.index, values)
        found = self.block(values, *more, **named)
        output: torch.Tensor = found[0] if isinstance(found, tuple) else found
        return output

    def __deepcopy__(self, memo: dict[int, Any]) -> "HfBlock":
        return HfBlock(copy.deepcopy(self.block, memo), self.index, self.around)


class HfHead(nn.Module):
    """The last normalisation and what the model does after it."""

    def __init__(self, model: nn.Module, base: nn.Module, norm_name: str) -> None:
        super().__init__()
        self.norm = base.get_submodule(norm_name)
        self.shell = _shallow(model)
        self.shell.config = copy.copy(model.config)
        self.given = _Given()
        setattr(self.shell, model.base_model_prefix, self.given)  # type: ignore[arg-type]

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """(batch, seq_len, hidden) -> logits (batch, seq_len, vocab)."""
        self.given.values = self.norm(values)
        try:
            logits: torch.Tensor = self.shell(input_ids=None).logits
        finally:
            self.given.values = None
        return logits


class _Given(nn.Module):
    """Stands for the base model when its outputs are there already."""

    values: torch.Tensor | None = None

    def forward(self, *inputs: Any, **named: Any) -> Any:
        return _Outputs(self.values)


class _Outputs:
    """The output of a base model: the last hidden values only."""

    def __init__(self, values: torch.Tensor | None) -> None:
        self.last_hidden_state = values

    def __getitem__(self, index: int) -> torch.Tensor | None:
        return self.last_hidden_state if index == 0 else None

    def __getattr__(self, name: str) -> None:
        return None


class HfLoss:
    """The model's own loss of (logits, labels): a mean over the labels that are not -100.

    count_all: labels per micro-batch on average over the global batch, so that micro-batches with
    fewer labels do not count for more; None: those of the micro-batch at hand.
    """

    def __init__(self, model: nn.Module) -> None:
        self.function: Callable[..., torch.Tensor] = model.loss_function  # type: ignore[assignment]
        self.config: Any = model.config
        self.count_all: float | None = None

    def __call__(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """The loss of one micro-batch."""
        more = {} if self.count_all is None else {"num_items_in_batch": self.count_all}
        return self.function(
            logits=logits, labels=labels, vocab_size=self.config.vocab_size, **more
        )


def _parts(model: nn.Module) -> tuple[nn.Module, str, str]:
    """The base model, the name in it of its decoder layers and of its last normalisation."""
    name = type(model).__name__
    prefix = getattr(model, "base_model_prefix", "")
    base = getattr(model, prefix, None)
    if not isinstance(base, nn.Module) or not hasattr(model, "loss_function"):
        raise NoChainError(f"{name}: not a causal language model with a base model; pass layers")
    children = dict(base.named_children())
    count = getattr(model.config, "num_hidden_layers", None)
    lists = [n for n, m in children.items() if isinstance(m, nn.ModuleList) and len(m) == count]
    if len(lists) != 1:
        raise NoChainError(
            f"{name}: {prefix} has {len(lists)} lists of {count} decoder layers "
            f"(children: {', '.join(children)}); pass layers=[...] and loss_fn=..."
        )
    after = list(children)[list(children).index(lists[0]) + 1 :]
    norms = [n for n in after if "norm" in type(children[n]).__name__.lower()]
    if len(norms) != 1:
        raise NoChainError(
            f"{name}: {prefix} has {len(norms)} normalisations after its decoder layers "
            f"({', '.join(after)}); pass layers=[...] and loss_fn=..."
        )
    return base, lists[0], norms[0]


def _shallow(module: nn.Module) -> Any:
    """A module with the same children and parameters, whose children can be replaced."""
    copied: Any = copy.copy(module)
    for name in ("_modules", "_parameters", "_buffers"):
        copied.__dict__[name] = dict(module.__dict__[name])
    return copied
