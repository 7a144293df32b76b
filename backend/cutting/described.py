"""The architecture of a model for the simulator, found in the products of its forward.

The forward runs on tensors without values. What its blocks multiply says the sizes of a
transformer; its parameters say the rest. Where these do not add up, nothing is described.
"""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from parplan.backend.cutting.block_calls import block_lists
from parplan.backend.cutting.how_called import Call
from parplan.backend.models.chain import evaluating
from parplan.errors import ParplanError
from parplan.sim.models.model import Model

LARGEST_DIFFERENCE = 0.02
"""Of the parameters of the description from those of the model."""


class Described(NamedTuple):
    """A model, its batch, and how well the description fits."""

    model: Model
    seq_len: int
    batch: int
    parameters: int
    """Of the model itself."""

    @property
    def difference(self) -> float:
        """Relative, of the description's parameters."""
        return self.model.num_parameters / self.parameters - 1


class _Product(NamedTuple):
    rows: int
    inner: int
    outer: int
    bias: bool


@dataclass(slots=True)
class _Seen:
    """What one part of the forward computes."""

    before: list[_Product] = field(default_factory=list)
    """Products before the attention."""
    after: list[_Product] = field(default_factory=list)
    attention: tuple[int, ...] | None = None
    """Batch, heads, tokens and features of the queries; batch times heads alone in the first place,
    and 0 heads, where scores are a plain product."""

    @property
    def products(self) -> list[_Product]:
        return self.after if self.attention else self.before


class _Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes products and attention of the part that runs."""

    def __init__(self, seen: _Seen) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seen = seen

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        name = function.overloadpacket.__name__
        if name in ("mm", "addmm"):
            a, b = args[-2:]
            product = _Product(a.shape[0], a.shape[1], b.shape[1], name == "addmm")
            self.seen.products.append(product)
        elif name.startswith("_scaled_dot_product") and self.seen.attention is None:
            self.seen.attention = tuple(args[0].shape)
        elif name in ("bmm", "baddbmm") and self.seen.attention is None:
            a = args[-2]
            self.seen.attention = (a.shape[0], 0, a.shape[1], a.shape[2])
        return function(*args, **(kwargs or {}))


def describe(model: nn.Module, call: Call, name: str, source: str) -> Described:
    """The transformer that a model is, by one call of it.

    Raises `ParplanError` with the reason for a model that is none as the simulator knows them.
    """
    seen = _watched(model, call, name)
    blocks, ends = seen[:-1], seen[-1]
    first = blocks[0]
    if any(
        (b.before, b.after, b.attention) != (first.before, first.after, first.attention)
        for b in blocks
    ):
        raise _unknown(name, "its blocks differ")
    if first.attention is None or not first.before or len(first.after) not in (3, 4):
        raise _unknown(
            name,
            f"a block has {len(first.before)} products before its attention and "
            f"{len(first.after)} after it, where a transformer's has 1 to 3 and 3 or 4",
        )
    batch, heads, tokens, features = _sizes(first)
    hidden = first.before[0].inner
    width = sum(product.outer for product in first.before)
    kv_heads, rest = divmod(width - heads * features, 2 * features)
    if rest or kv_heads < 1 or heads % kv_heads or first.after[0].inner != heads * features:
        raise _unknown(name, f"{width} features of queries, keys and values for {heads} heads")
    if not ends.products:
        raise _unknown(name, "it multiplies nothing after its blocks")
    vocabulary = max(product.outer for product in ends.products)
    block = _blocks(model, name)[0]
    tables = list(_tables(model, _blocks(model, name), hidden, vocabulary))
    norms = [m for m in block.modules() if _is_norm(m, hidden)]
    found = Model(
        name=name,
        num_layers=len(blocks),
        hidden_size=hidden,
        num_heads=heads,
        num_kv_heads=kv_heads,
        ffn_size=first.after[1].outer,
        vocab_size=vocabulary,
        mlp="gated" if len(first.after) == 4 else "plain",
        norm="layernorm" if any(len(_own(m)) > 1 for m in norms) else "rmsnorm",
        bias=first.after[0].bias,
        qkv_bias=first.before[0].bias and not first.after[0].bias,
        tied_embeddings=_is_tied(model, vocabulary, hidden),
        learned_positions=max(tables, default=0),
        head_dim=None if heads * features == hidden else features,
        block_norms=4 if len(norms) == 4 else 2,
        query_key_norm=sum(_is_norm(m, features) for m in block.modules()) == 2,
        source=source,
    )
    parameters = sum(p.numel() for p in model.parameters())
    described = Described(found, tokens, batch, parameters)
    if abs(described.difference) > LARGEST_DIFFERENCE:
        raise _unknown(
            name,
            f"a transformer of its sizes has {found.num_parameters:,} parameters, it has "
            f"{parameters:,}",
        )
    return described


def model_table(model: Model) -> str:
    """The model as the table of a TOML file, without what is the default."""
    lines = [f"[{model.name}]"]
    for key in Model.__dataclass_fields__:
        value = getattr(model, key)
        default = Model.__dataclass_fields__[key].default
        if key == "name" or value is None or value == default:
            continue
        text = {True: "true", False: "false"}.get(value) if isinstance(value, bool) else None
        quoted = '"' + str(value).replace("\\", "/").replace('"', "'") + '"'
        lines.append(f"{key} = {text or (quoted if isinstance(value, str) else value)}")
    return "\n".join(lines) + "\n"


def _watched(model: nn.Module, call: Call, name: str) -> list[_Seen]:
    """What each block computes, and at the end what everything else does."""
    blocks = _blocks(model, name)
    seen = [_Seen() for _ in blocks]
    ends = _Seen()
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    with contextlib.ExitStack() as stack:
        stack.enter_context(mode)
        args, named = tree_map_only(torch.Tensor, mode.from_tensor, call)
        watch = _Watch(ends)

        def enter(module: nn.Module, given: Any) -> None:
            watch.seen = seen[index_of[id(module)]]

        def leave(module: nn.Module, given: Any, result: Any) -> None:
            watch.seen = ends

        index_of = {id(block): i for i, block in enumerate(blocks)}
        for block in blocks:
            stack.callback(block.register_forward_pre_hook(enter).remove)
            stack.callback(block.register_forward_hook(leave).remove)
        stack.enter_context(torch.enable_grad())
        stack.enter_context(evaluating(model))
        stack.enter_context(watch)
        try:
            type(model).forward(model, *args, **named)
        except Exception as error:
            lines = str(error).strip().splitlines() or [type(error).__name__]
            raise _unknown(name, f"its forward cannot run without values: {lines[0]}") from error
    return [*seen, ends]


def _blocks(model: nn.Module, name: str) -> Sequence[nn.Module]:
    found = next(block_lists(model), None)
    if found is None:
        raise _unknown(name, "it has no list of blocks")
    kinds = [type(module) for module in found]
    kind = max(kinds, key=kinds.count)
    return [module for module in found if type(module) is kind]


def _sizes(block: _Seen) -> tuple[int, int, int, int]:
    """Batch, heads, tokens, features of a head."""
    assert block.attention is not None
    batch, heads, tokens, features = block.attention
    if not heads:
        rows = block.before[0].rows
        batch, heads = rows // tokens, batch // max(1, rows // tokens)
    return batch, heads, tokens, features


def _own(module: nn.Module) -> list[nn.Parameter]:
    return list(module.parameters(recurse=False))


def _is_norm(module: nn.Module, size: int) -> bool:
    own = _own(module)
    return bool(own) and all(p.dim() == 1 and p.numel() == size for p in own)


def _tables(
    model: nn.Module, blocks: Sequence[nn.Module], hidden: int, vocabulary: int
) -> Iterator[int]:
    """Rows of the tables of positions."""
    inner = {id(p) for block in blocks for p in block.parameters()}
    for parameter in (p for p in model.parameters() if id(p) not in inner):
        rows = parameter.numel() // hidden
        plain = parameter.dim() >= 2 and parameter.shape[-1] == hidden
        if plain and rows != vocabulary and rows == max(parameter.shape[:-1]):
            owner = next(m for m in model.modules() if any(p is parameter for p in _own(m)))
            if isinstance(owner, nn.Embedding) or next(owner.children(), None) is not None:
                yield rows


def _is_tied(model: nn.Module, vocabulary: int, hidden: int) -> bool:
    tables = [p for p in model.parameters() if tuple(p.shape) == (vocabulary, hidden)]
    return len(tables) == 1


def _unknown(name: str, why: str) -> ParplanError:
    return ParplanError(f"{name}: not a transformer that the simulator knows: {why}")
