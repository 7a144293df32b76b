"""Chains of models whose forward calls blocks of a ModuleList one after the other.

The model's own forward is not rewritten: the first layer of the chain runs it up to the first
block, the loss runs it again from the last block on (`parplan.backend.cutting.skeleton`). That a
model can be cut so is found out by calling it, and compared with what it returns.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten

from parplan.backend.cutting.block_calls import (
    NOT_IN_ORDER,
    BlockCall,
    block_lists,
    check_alike,
    recorded,
    values_of,
)
from parplan.backend.cutting.how_called import Call, HowCalled
from parplan.backend.cutting.skeleton import (
    BlockBefore,
    FirstBlock,
    LastBlock,
    Reached,
    Skeleton,
    direct_owners,
)
from parplan.backend.models.chain import Chain, NoChainError, evaluating


class _Ends:
    """What of a model comes before its blocks and what after them."""

    def __init__(
        self, model: nn.Module, blocks: Sequence[nn.Module], calls: Sequence[BlockCall]
    ) -> None:
        self.model, self.blocks, self.calls = model, blocks, calls
        self.form = _form(calls[-1].result)
        self.before: set[int] = set()
        self.after: set[int] = set()

    def find(self, how: HowCalled, args: Call) -> None:
        """Find which parameters each end computes with."""
        every = [p for p in self.model.parameters() if p.requires_grad]
        ids = {id(p) for p in self.model.parameters()}
        in_blocks = {id(p) for block in self.blocks for p in block.parameters()}
        with torch.enable_grad(), evaluating(self.model):
            stops = [FirstBlock() for _ in self.blocks]
            try:
                Skeleton(self.model, self.blocks, stops, ids, ())(*args[0], **args[1])
            except Reached as reached:
                self.before = _used(reached.values, every)
            last = LastBlock(self.form)
            before = [BlockBefore(self.form) for _ in self.blocks[1:]]
            last.outputs.append(values_of(self.calls[-1].result).detach())
            stand_ins = [*before, last]
            outputs = Skeleton(self.model, self.blocks, stand_ins, ids, ())(*args[0], **args[1])
            self.after = _used(how.loss_of(outputs), every)
        frozen = ids - {id(p) for p in every}
        self.before |= frozen - in_blocks
        self.after |= frozen - in_blocks
        if missing := ids - in_blocks - self.before - self.after:
            names = [n for n, p in self.model.named_parameters() if id(p) in missing]
            raise NoChainError(f"{names[0]} is computed with neither before nor after the blocks")


def _used(end: torch.Tensor, parameters: Sequence[nn.Parameter]) -> set[int]:
    """The ids of those that `end` was computed from."""
    if not end.requires_grad or not parameters:
        return set()
    found = torch.autograd.grad(end.sum(), parameters, allow_unused=True)
    return {id(p) for p, gradient in zip(parameters, found, strict=True) if gradient is not None}


class BeforeBlocks(nn.Module):
    """The first layer: the model's forward up to its first block."""

    def __init__(self, ends: _Ends, how: HowCalled, targets: torch.Tensor) -> None:
        super().__init__()
        owners = list(_register(self, ends.model, ends.before))
        stand_ins = [FirstBlock() for _ in ends.blocks]
        made = Skeleton(ends.model, ends.blocks, stand_ins, ends.before, {id(m) for m in owners})
        self.__dict__["skeleton"], self.__dict__["how"] = made, how
        self.__dict__["targets"] = _like(targets)

    def forward(self, values: torch.Tensor) -> Any:
        """The inputs of the first block."""
        shape, dtype = self.__dict__["targets"]
        targets = torch.zeros(len(values), *shape, dtype=dtype, device=values.device)
        args, named = self.__dict__["how"].call(values, targets)
        try:
            self.__dict__["skeleton"](*args, **named)
        except Reached as reached:
            return reached.values
        raise NoChainError("the forward did not come to its blocks")

    def _apply(self, fn: Callable[[Any], Any], recurse: bool = True) -> "BeforeBlocks":
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self.__dict__["skeleton"].apply(fn)
        return self


class _Joined:
    """Puts arguments together again; one object for all copies of a block."""

    def __init__(self, spec: TreeSpec) -> None:
        self.spec = spec

    def __call__(self, leaves: list[Any]) -> Any:
        """The arguments by position and by name."""
        return tree_unflatten(leaves, self.spec)

    def __deepcopy__(self, memo: Any) -> "_Joined":
        return self


class OneBlock(nn.Module):
    """A block with the arguments beside the values that it is always called with."""

    def __init__(self, block: nn.Module, more: tuple[Any, ...], named: dict[str, Any]) -> None:
        super().__init__()
        self.block = block
        leaves, spec = tree_flatten((more, named))
        self.join = _Joined(spec)
        for i, leaf in enumerate(leaves):
            if isinstance(leaf, torch.Tensor):
                self.register_buffer(f"given{i}", leaf, persistent=False)
        self.leaves = [None if isinstance(leaf, torch.Tensor) else leaf for leaf in leaves]

    @property
    def takes_tensors(self) -> bool:
        """Whether its other arguments belong to inputs of one shape."""
        return next(self.buffers(recurse=False), None) is not None

    def forward(self, values: torch.Tensor) -> Any:
        """The block's values."""
        own = dict(self.named_buffers(recurse=False))
        leaves = [own.get(f"given{i}", leaf) for i, leaf in enumerate(self.leaves)]
        more, named = self.join(leaves)
        return values_of(self.block(values, *more, **named))


class AfterBlocks(nn.Module):
    """The last layer: has the parameters that the loss is computed with (`LossAfterBlocks`)."""

    def __init__(self, ends: _Ends, loss: "LossAfterBlocks") -> None:
        super().__init__()
        shared = {id(m) for m in _register(self, ends.model, ends.after)}
        self.__dict__["last"] = last = LastBlock(ends.form)
        stand_ins = [*(BlockBefore(ends.form) for _ in ends.blocks[1:]), last]
        made = Skeleton(ends.model, ends.blocks, stand_ins, ends.after, shared)
        self.__dict__["skeleton"], self.__dict__["loss"] = made, loss

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """The values as they are; their loss is computed by this layer, or this copy of it."""
        self.__dict__["loss"].layer = self
        return values

    def call(self, values: torch.Tensor, call: Call) -> Any:
        """What the model returns for these values of its last block."""
        last = self.__dict__["last"]
        last.outputs.append(values)
        try:
            return self.__dict__["skeleton"](*call[0], **call[1])
        finally:
            last.outputs.clear()

    def _apply(self, fn: Callable[[Any], Any], recurse: bool = True) -> "AfterBlocks":
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self.__dict__["skeleton"].apply(fn)
        return self


class LossAfterBlocks:
    """The loss of (outputs of the blocks, targets), by the model's forward after its blocks."""

    layer: AfterBlocks

    def __init__(self, how: HowCalled, inputs: torch.Tensor) -> None:
        self.how = how
        self.sees(inputs)

    def __deepcopy__(self, memo: Any) -> "LossAfterBlocks":
        return self

    def sees(self, inputs: torch.Tensor) -> None:
        """Take inputs of this shape for those that the outputs come from."""
        self.shape = _like(inputs)

    def __call__(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """The mean loss of a micro-batch."""
        shape, dtype = self.shape
        inputs = torch.zeros(len(outputs), *shape, dtype=dtype, device=outputs.device)
        args, named = self.how.call(inputs, targets)
        loss: torch.Tensor = self.how.loss_of(self.layer.call(outputs, (args, named)))
        return loss


def may_be_cut(model: nn.Module) -> bool:
    """Whether the model has a list of blocks at all."""
    return next(block_lists(model), None) is not None


def cut_at_blocks(model: nn.Module, call: Call) -> tuple[Chain, HowCalled]:
    """The chain of a model that is called so: before the blocks, the blocks, after them.

    By the forward of its class. Nothing is trained or changed. Raises `NoChainError` with the
    reason for a model that calls no list of modules one after the other, whose blocks take what
    differs from row to row, or whose loss needs more than the last block's output and the targets.
    """
    kind = type(model).__name__
    if any(type(module).__name__ == "OptimizedModule" for module in model.modules()):
        raise NoChainError(f"{kind}: compiled as a whole; compile its blocks instead")
    reasons = []
    for blocks in block_lists(model):
        for swapped in (False, True):
            try:
                return _cut(model, blocks, call, swapped)
            except NoChainError as error:
                reasons.append(str(error))
            except Exception as error:
                lines = str(error).strip().splitlines() or [type(error).__name__]
                reasons.append(f"its forward cannot be run in parts: {lines[0]}")
    called = [reason for reason in reasons if reason != NOT_IN_ORDER]
    why = next(iter([*called, *reasons]), "it has no list of blocks")
    raise NoChainError(f"{kind}: {why}")


def _cut(
    model: nn.Module, blocks: Sequence[nn.Module], call: Call, swapped: bool
) -> tuple[Chain, HowCalled]:
    leaves = [leaf for leaf in tree_flatten(call)[0] if isinstance(leaf, torch.Tensor)]
    if len(leaves) != 2 or not all(leaf.dim() and len(leaf) > 1 for leaf in leaves):
        raise NoChainError("its call has not two tensors of two rows or more")
    inputs, targets = reversed(leaves) if swapped else leaves
    with torch.no_grad(), evaluating(model):
        outputs = type(model).forward(model, *call[0], **call[1])
    how = HowCalled(call, swapped, outputs)
    how.tensors(*call)
    one, other, two = (
        recorded(model, blocks, how.call(inputs[rows], targets[rows]))
        for rows in (slice(1), slice(1, 2), slice(2))
    )
    check_alike(one, other)
    check_alike(one, two)
    ends = _Ends(model, blocks, one)
    ends.find(how, how.call(inputs[:1], targets[:1]))
    loss = LossAfterBlocks(how, inputs)
    last = AfterBlocks(ends, loss)
    loss.layer = last
    _check_inputs_unused(loss, ends, how, (inputs[:1], targets[:1]))
    layers: list[nn.Module] = [BeforeBlocks(ends, how, targets)]
    layers += [_layer(block, record) for block, record in zip(blocks, one, strict=True)]
    if any(isinstance(layer, OneBlock) and layer.takes_tensors for layer in layers):
        how.shape = inputs.shape[1:]
    chain = Chain(layers=(*layers, last), num_first=1, num_last=1, loss_fn=loss)
    return chain, how


def _layer(block: nn.Module, record: BlockCall) -> nn.Module:
    if record.more or record.named or isinstance(record.result, tuple):
        return OneBlock(block, record.more, record.named)
    return block


def _check_inputs_unused(
    loss: LossAfterBlocks, ends: _Ends, how: HowCalled, batch: tuple[Any, Any]
) -> None:
    """Raise `NoChainError` unless what comes after the blocks is the same without the inputs."""
    every = [p for p in ends.model.parameters() if id(p) in ends.after and p.requires_grad]
    values = values_of(ends.calls[-1].result).detach()
    ids = {id(p) for p in ends.model.parameters()}
    last = LastBlock(ends.form)
    last.outputs.append(values)
    before = [BlockBefore(ends.form) for _ in ends.blocks[1:]]
    args, named = how.call(*batch)
    with torch.enable_grad(), evaluating(ends.model):
        whole = Skeleton(ends.model, ends.blocks, [*before, last], ids, ())
        expected = how.loss_of(whole(*args, **named))
        found = loss(values, batch[1])
        pairs = [(expected, found)]
        if every:
            gradients = (
                torch.autograd.grad(of, every, allow_unused=True) for of in (expected, found)
            )
            pairs += zip(*gradients, strict=True)
    for a, b in pairs:
        if (a is None) != (b is None) or (a is not None and not torch.allclose(a, b, rtol=1e-4)):
            raise NoChainError("its loss needs more than the last block's output and the targets")


def _register(layer: nn.Module, model: nn.Module, owned: set[int]) -> Iterator[nn.Module]:
    """Give `layer` the modules that have these parameters.

    Or the parameters alone, where such a module holds others as well.
    """
    kept = nn.ModuleList()
    for module in dict.fromkeys(m for m, _, _ in direct_owners(model, owned)):
        own = dict(module.named_parameters(recurse=False))
        if not list(module.children()) and all(id(p) in owned for p in own.values()):
            kept.append(module)
            yield module
            continue
        for name, parameter in own.items():
            if id(parameter) in owned:
                layer.register_parameter(f"own{len(layer._parameters)}_{name}", parameter)
    layer.kept = kept


def _like(tensor: torch.Tensor) -> tuple[torch.Size, torch.dtype]:
    return tensor.shape[1:], tensor.dtype


def _form(result: Any) -> Callable[[Any], Any]:
    """How a block returns values: as they are, or with so many empty places after them."""
    if isinstance(result, tuple):
        return lambda values: (values, *result[1:])
    return lambda values: values
