"""Tensor parallelism of parplan's GPT layers by DTensor (Shoeybi et al. 2019, arXiv:1909.08053).

Columns of the products into attention and MLP and rows of those out of them are split, and so are
the vocabulary of the embedding and of the head. With sequence parallelism the values between these
regions are split along the sequence (Korthikanti et al. 2022, arXiv:2205.05198). What passes from
module to module are plain tensors of this rank's part, so that a pipeline can be cut anywhere.
"""

import itertools
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_module
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    ParallelStyle,
    RowwiseParallel,
    SequenceParallel,
    parallelize_module,
)
from torch.distributed.tensor.placement_types import Placement

from parplan.backend.models.chain import LossFunction
from parplan.backend.models.gpt import Block, Embedding, Head
from parplan.errors import ParplanError

NORMS = ("attention_norm", "mlp_norm", "attention_post_norm", "mlp_post_norm")
"""Those of a block, where it has them."""


def check_splittable(layers: Sequence[nn.Module], ranks: int) -> None:
    """Raise `ParplanError` for a layer that `split` does not know, or that does not divide."""
    for index, layer in enumerate(layers):
        if isinstance(layer, Embedding):
            sizes = {"vocab_size": layer.tokens.num_embeddings}
        elif isinstance(layer, Block):
            sizes = {"num_heads": layer.attention.heads, "num_kv_heads": layer.attention.kv_heads}
            sizes["ffn_size"] = layer.mlp.down.in_features
        elif isinstance(layer, Head):
            sizes = {"vocab_size": layer.projection.out_features}
        else:
            raise ParplanError(
                f"tensor_parallel: layer {index} is a {type(layer).__name__}; only the layers of "
                "parplan.backend.models.gpt can be split"
            )
        for name, size in sizes.items():
            if size % ranks:
                raise ParplanError(f"plan: tensor_parallel {ranks} does not divide {name} {size}")


def split(layer: nn.Module, mesh: DeviceMesh, sequence_parallel: bool) -> None:
    """Keep this rank's part of a layer of the GPT, on a mesh of one dimension."""
    stream: Placement = Shard(1) if sequence_parallel else Replicate()
    norm = SequenceParallel(use_local_output=True) if sequence_parallel else _Same()
    enter = ColwiseParallel(input_layouts=stream)
    leave = RowwiseParallel(output_layouts=stream)
    if isinstance(layer, Embedding):
        tokens = RowwiseParallel(input_layouts=Replicate(), output_layouts=stream)
        styles: dict[str, ParallelStyle] = {"tokens": tokens}
        if layer.positions is not None:
            styles["positions"] = _Same(Shard(0) if sequence_parallel else Replicate())
    elif isinstance(layer, Head):
        styles = {"norm": norm, "projection": enter}
    else:
        assert isinstance(layer, Block)
        layer.split_over = mesh.size()
        layer.attention.keep_part(mesh.size(), mesh.get_local_rank())
        _order_rows(layer, mesh.size())
        styles = {"attention.qkv": enter, "attention.out": leave}
        styles |= {"mlp.up": enter, "mlp.down": leave}
        styles |= {name: norm for name in NORMS if getattr(layer, name) is not None}
        if layer.attention.query_norm is not None:
            # Of every rank's own heads: (batch, heads, seq_len, head_size).
            heads = SequenceParallel(sequence_dim=1, use_local_output=True)
            styles |= {"attention.query_norm": heads, "attention.key_norm": heads}
    parallelize_module(layer, mesh, styles)


def loss_of_parts(loss_fn: LossFunction, mesh: DeviceMesh) -> LossFunction:
    """`loss_fn` for logits of which every rank has a part of the vocabulary.

    It and its backward run under `torch.distributed.tensor.parallel.loss_parallel`.
    """

    def loss(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        whole = DTensor.from_local(logits, mesh, [Shard(logits.ndim - 1)], run_check=False)
        result = loss_fn(whole, targets)
        return result.to_local() if isinstance(result, DTensor) else result

    return loss


def whole_parameters(layer: nn.Module, ranks: int) -> list[torch.Tensor]:
    """The parameters of a layer, gathered from all ranks that have a part, in the model's order.

    ranks: the tensor-parallel degree that the layer was split with. All ranks that have a part
    call this together.
    """
    fused = {id(p): rows for p, rows in _fused(layer, ranks)} if ranks > 1 else {}
    found = []
    for parameter in layer.parameters():
        values = parameter.detach()
        values = values.full_tensor() if isinstance(values, DTensor) else values
        if id(parameter) in fused:
            values = values[fused[id(parameter)].argsort()]
        found.append(values)
    return found


def fused_rows(layer: nn.Module, ranks: int) -> dict[int, torch.Tensor]:
    """Rows of parameters of a split block that several products share, by id.

    In the model's order, rank by rank.
    """
    return {id(parameter): rows for parameter, rows in _fused(layer, ranks)}


class _Same(ParallelStyle):
    """All ranks compute the same; each hands on its part of the output, or all of it."""

    def __init__(self, output: Placement | None = None) -> None:
        self.output = output or Replicate()

    def _apply(self, module: nn.Module, device_mesh: DeviceMesh) -> nn.Module:
        def enter(_: nn.Module, inputs: Any, mesh: DeviceMesh) -> Any:
            return tuple(
                DTensor.from_local(x, mesh, [Replicate()], run_check=False) for x in inputs
            )

        def leave(_: nn.Module, output: Any, mesh: DeviceMesh) -> Any:
            return output.redistribute(placements=[self.output]).to_local()

        return distribute_module(module, device_mesh, None, enter, leave)


def _order_rows(block: Block, ranks: int) -> None:
    """Put the rows of each rank together: query, key and value of its heads, gate and up."""
    with torch.no_grad():
        for parameter, rows in _fused(block, ranks):
            parameter.copy_(parameter[rows])


def _fused(layer: nn.Module, ranks: int) -> list[tuple[nn.Parameter, torch.Tensor]]:
    """The parameters of a block that several products share, and their rows rank by rank."""
    block = next((m for m in layer.modules() if isinstance(m, Block)), None)
    if block is None:
        return []
    heads = [ranks * size for size in block.attention.sizes]  # sizes: this rank's
    ups = 2 if block.mlp.gated else 1
    parts = (
        (block.attention.qkv, heads),
        (block.mlp.up, ups * [block.mlp.up.out_features // ups]),
    )
    return [
        (parameter, rows_by_rank(sizes, ranks).to(parameter.device))
        for linear, sizes in parts
        for parameter in linear.parameters()
    ]


def rows_by_rank(sizes: Sequence[int], ranks: int) -> torch.Tensor:
    """Rows of parts of so many rows each, ordered so that every rank's are together."""
    ends = list(itertools.accumulate(sizes))
    parts = [torch.arange(end - size, end) for end, size in zip(ends, sizes, strict=True)]
    return torch.cat([part.chunk(ranks)[rank] for rank in range(ranks) for part in parts])
