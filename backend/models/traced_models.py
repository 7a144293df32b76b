"""Traces of models by name: parplan's own layers, Hugging Face configs, and a user's module.

The models are made of fake tensors, so that their weights take no memory.
"""

import contextlib
import importlib
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from parplan.backend.models.find_chain import find_chain
from parplan.backend.models.gpt import gpt_layers, language_loss
from parplan.backend.models.hf_chain import hf_chain, hf_model
from parplan.backend.models.trace import ChainTrace, trace_chain
from parplan.errors import ParplanError
from parplan.sim.workload import Workload

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


class _Tokens(NamedTuple):
    inputs: torch.Tensor
    targets: torch.Tensor


def trace_workload(workload: Workload, batch: int = 1) -> ChainTrace:
    """Trace parplan's own layers for `workload`, on a micro-batch of so many sequences.

    Raises `ParplanError` for models that are only predicted.
    """
    mode = FakeTensorMode()
    with mode, _default_dtype(workload):
        layers: Sequence[nn.Module] = gpt_layers(
            workload.model, workload.seq_len, workload.attention
        )
        tokens = _tokens(batch, workload.seq_len)
    return trace_chain(layers, language_loss, *tokens, mode)


def trace_config(config: Any, workload: Workload, batch: int = 1) -> ChainTrace:
    """The model that transformers builds from a config or a config.json, in the same way.

    Raises `ParplanError` without transformers, and for a model that is not a chain.
    """
    mode = FakeTensorMode()
    with mode:
        chain = hf_chain(hf_model(config, DTYPES[workload.precision]))
        tokens = _tokens(batch, workload.seq_len)
    return trace_chain(chain.layers, chain.loss_fn, *tokens, mode)


def trace_function(name: str) -> ChainTrace:
    """The model of `module:function`, which takes nothing and returns (model, inputs, targets).

    The function is called on fake tensors. `model(inputs, targets)` is a chain as `find_chain`
    finds it. Raises `ParplanError` for anything else.
    """
    function = _imported(name)
    mode = FakeTensorMode()
    with mode:
        made = function()
    if not isinstance(made, tuple) or len(made) != 3 or not isinstance(made[0], nn.Module):
        raise ParplanError(f"{name}: expected (model, inputs, targets), got {type(made).__name__}")
    model, inputs, targets = made
    chain = find_chain(model)
    return trace_chain(chain.layers, chain.loss_fn, inputs, targets, mode)


def _imported(name: str) -> Any:
    module, _, attribute = name.partition(":")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        function = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ParplanError(f"{name}: cannot be imported: {error}") from None
    if not callable(function):
        raise ParplanError(f"{name}: expected a function, got {function!r}")
    return function


def _tokens(batch: int, seq_len: int) -> _Tokens:
    tokens = torch.zeros(batch, seq_len, dtype=torch.int64)
    return _Tokens(tokens, tokens.clone())


@contextlib.contextmanager
def _default_dtype(workload: Workload) -> Iterator[None]:
    """Parameters of the workload's type for a while."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(DTYPES[workload.precision])
    try:
        yield
    finally:
        torch.set_default_dtype(before)
