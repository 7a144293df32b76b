"""Data parallelism for any model and any loss, where no chain of layers can be cut.

Every process computes its rows of the batch by the model's own forward. What comes out is put
together again, so that the script goes on with the outputs of the whole batch and computes a loss
from them, or gets the loss that the model returns; the backward takes each process's part.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer
from torch.utils._pytree import tree_flatten, tree_map

from parplan.backend.executable import reduces_by_hooks
from parplan.backend.models.chain import evaluating
from parplan.backend.runtime.groups import make_groups
from parplan.backend.runtime.recorded_stage import Clock
from parplan.backend.runtime.sharding import replicate
from parplan.errors import ParplanError
from parplan.sim.plan import Plan

Call = tuple[tuple[Any, ...], dict[str, Any]]
"""Arguments, and those with names."""

TOLERANCE = {False: 1e-4, True: 3e-2}
"""Relative, of what the parts of a batch give to what all of it gives at once; the second where
something is computed in half precision."""

ROUNDING = 1e-6

IGNORED = -100
"""Labels that losses of Hugging Face models do not count."""


class OwnForward(nn.Module):
    """A model with the forward that it had."""

    def __init__(self, model: nn.Module, forward: Callable[..., Any]) -> None:
        super().__init__()
        self.model = model
        self.__dict__["own"] = forward

    def forward(self, *given: Any, **named: Any) -> Any:
        """What the model would return."""
        return self.__dict__["own"](*given, **named)


class WholeModel:
    """A model whose replicas compute parts of every batch."""

    def __init__(
        self,
        model: nn.Module,
        forward: Callable[..., Any],
        plan: Plan,
        device: torch.device,
        *,
        drawn_in_parts: bool,
    ) -> None:
        """Wrap the model for data parallelism alone, sharded (ZeRO-2 and -3) or not.

        drawn_in_parts: if every process has its part of the batch already, and keeps its part of
        the outputs.
        """
        self.plan, self.device, self.forward = plan, device, forward
        self.drawn_in_parts = drawn_in_parts
        self.groups = make_groups(plan, device)
        self.own = OwnForward(model, forward).to(device)
        self.clock = Clock(device, None)
        self.modules: Mapping[int, nn.Module] = {0: self.own}
        self._known = list(self.own.parameters())
        self._module: nn.Module | None = None
        self._weights_of: Callable[[Call], list[float]] = _by_rows

    @property
    def count(self) -> int:
        """Replicas."""
        return self.plan.data_parallel

    def parameters(self) -> Iterator[nn.Parameter]:
        """This process's, or its parts of them."""
        yield from self.own.parameters()

    def is_of(self, optimizer: Optimizer) -> bool:
        """Whether `optimizer` is of this model's parameters."""
        known = {id(p) for p in (*self._known, *self.parameters())}
        return any(id(p) in known for group in optimizer.param_groups for p in group["params"])

    def prepare(self, call: Call) -> None:
        """Make the replicas; find out how the loss of a batch follows from those of its parts.

        Raises `ParplanError` for a model whose outputs for a row depend on other rows.
        """
        if self.count == 1:
            return
        if not self.drawn_in_parts:
            self._compare(call)
        if reduces_by_hooks(self.plan):
            # Which parameters are used may change from step to step (experts).
            self._module = DistributedDataParallel(
                self.own, process_group=self.groups.group("shards"), find_unused_parameters=True
            )
        else:
            self._module = replicate(self.own, _units(self.own.model), self.plan, self.groups)

    def _compare(self, call: Call) -> None:
        size = batch_size(call)
        division = _division(size, self.count)
        with torch.no_grad(), evaluating(self.own):
            expected = self.forward(*call[0], **call[1])
            parts = [rows_of_call(call, rows) for rows in division]
            found = [self.forward(*part[0], **part[1]) for part in parts]
        sizes = [len(rows) for rows in division]
        differences = []
        ways: list[Callable[[Call], list[float]]] = [_by_labels, _by_rows]
        if type(self.own.model).__name__.endswith(("ForCausalLM", "LMHeadModel")):
            ways.insert(0, _by_next_labels)
        for weights_of in ways:
            weights = weights_of(call) or [n / size for n in sizes]
            differences.append(_difference(_joined(found, sizes, weights), expected))
        least = min(differences)
        if least <= TOLERANCE[self._is_rough()]:
            # The first one that is as good as any: all are where every label counts.
            good = [d <= max(2 * least, ROUNDING) for d in differences]
            self._weights_of = ways[good.index(True)]
            return
        raise ParplanError(
            f"{type(self.own.model).__name__}: what it returns for a batch is not that of its "
            f"parts put together (relative difference {least:.1g}): its rows depend on each other, "
            "or its loss is no mean over rows or labels; data parallelism would train another model"
        )

    def _is_rough(self) -> bool:
        """Whether anything is computed in less than single precision."""
        if torch.is_autocast_enabled(self.device.type):
            return True
        return any(p.dtype in (torch.float16, torch.bfloat16) for p in self._known)

    def __call__(self, call: Call) -> Any:
        """What the model returns for the whole batch, with a backward into this process's rows."""
        if self._module is None:
            return self.forward(*call[0], **call[1])
        if not torch.is_grad_enabled():
            whole = self.forward if reduces_by_hooks(self.plan) else self._module
            return whole(*call[0], **call[1])
        sizes = self._sizes(batch_size(call))
        rank = self.groups.data_rank
        weights = [n / sum(sizes) for n in sizes]
        if self.drawn_in_parts:
            outputs = self._module(*call[0], **call[1])
            return tree_map(lambda value: _mean(value, weights, rank), outputs)
        weights = self._weights_of(call) or weights
        begin = sum(sizes[:rank])
        args, named = rows_of_call(call, range(begin, begin + sizes[rank]))
        outputs = self._module(*args, **named)
        return tree_map(lambda value: _whole(value, sizes, weights, rank), outputs)

    def _sizes(self, size: int) -> list[int]:
        """Rows of every replica."""
        if not self.drawn_in_parts:
            return [len(rows) for rows in _division(size, self.count)]
        own = torch.tensor([size], device=self.device)
        everyone = [torch.empty_like(own) for _ in range(self.count)]
        dist.all_gather(everyone, own)
        return [int(one) for one in everyone]


def batch_size(call: Call) -> int:
    """Rows of the first tensor of a call; raises `ParplanError` for none."""
    for value in tree_flatten(call)[0]:
        if isinstance(value, torch.Tensor) and value.dim() > 0:
            return len(value)
    raise ParplanError("a parallelised model is called with tensors, whose first dimension is rows")


def tensors_of(call: Call) -> list[torch.Tensor]:
    """All tensors of a call."""
    return [value for value in tree_flatten(call)[0] if isinstance(value, torch.Tensor)]


def rows_of_call(call: Call, rows: range) -> Call:
    """The same call with some rows of every tensor that has as many as the batch."""
    size = batch_size(call)

    def part(value: Any) -> Any:
        if isinstance(value, torch.Tensor) and value.dim() > 0 and len(value) == size:
            return value[rows.start : rows.stop]
        return value

    found: Call = tree_map(part, call)
    return found


def _division(size: int, count: int) -> list[range]:
    """Rows of every replica, as equal as may be; raises `ParplanError` for fewer than replicas."""
    if size < count:
        raise ParplanError(f"batch of {size} rows: fewer than {count} replicas")
    ends = [size * (i + 1) // count for i in range(count)]
    return [range(begin, end) for begin, end in zip([0, *ends[:-1]], ends, strict=True)]


def _units(model: nn.Module) -> Iterator[nn.Module]:
    """Blocks that are gathered together where parameters are sharded."""
    for module in model.modules():
        if isinstance(module, nn.ModuleList | nn.Sequential) and len(module) > 1:
            yield from module
            return


def _by_rows(call: Call) -> list[float]:
    return []


def _counted(call: Call, first: int) -> list[float]:
    """The share of each replica in the labels that count, from column `first` on."""
    labels = call[1].get("labels")
    if not isinstance(labels, torch.Tensor) or labels.dim() < 2:
        return []
    counts = [
        int((labels[rows.start : rows.stop, first:] != IGNORED).sum())
        for rows in _division(len(labels), dist.get_world_size())
    ]
    total = sum(counts)
    return [count / total for count in counts] if total else []


def _by_labels(call: Call) -> list[float]:
    return _counted(call, 0)


def _by_next_labels(call: Call) -> list[float]:
    return _counted(call, 1)


def _joined(
    parts: Sequence[Any], sizes: Sequence[int], weights: Sequence[float]
) -> list[torch.Tensor | None]:
    """The tensors of several outputs put together; None for what is not made of rows."""
    columns = zip(*(_tensors(part) for part in parts), strict=True)
    return [_join(column, sizes, weights) for column in columns]


def _join(
    parts: Sequence[torch.Tensor], sizes: Sequence[int], weights: Sequence[float]
) -> torch.Tensor | None:
    if all(part.dim() == 0 for part in parts):
        return torch.stack([p * w for p, w in zip(parts, weights, strict=True)]).sum()
    if [len(part) for part in parts] == list(sizes):
        return torch.cat(list(parts))
    return None


def _tensors(outputs: Any) -> list[torch.Tensor]:
    return [v for v in tree_flatten(outputs)[0] if isinstance(v, torch.Tensor)]


def _difference(found: Sequence[torch.Tensor | None], outputs: Any) -> float:
    """Largest relative difference; infinite where something cannot be put together."""
    expected = _tensors(outputs)
    if len(found) != len(expected):
        return math.inf
    worst = 0.0
    for one, other in zip(found, expected, strict=True):
        if one is None or one.shape != other.shape:
            return math.inf
        if not other.is_floating_point():
            continue
        scale = other.abs().max().clamp_min(1e-6)
        worst = max(worst, float((one - other).abs().max() / scale))
    return worst


def _whole(value: Any, sizes: Sequence[int], weights: Sequence[float], rank: int) -> Any:
    if not isinstance(value, torch.Tensor) or value.dim() == 0:
        return _mean(value, weights, rank)
    rows: torch.Tensor = _AllRows.apply(value, list(sizes), rank)  # type: ignore[no-untyped-call]
    return rows


def _mean(value: Any, weights: Sequence[float], rank: int) -> Any:
    """Of a number over the replicas; anything else as it is."""
    if not isinstance(value, torch.Tensor) or value.dim() > 0:
        return value
    mean: torch.Tensor = _WeightedSum.apply(value, weights[rank], len(weights))  # type: ignore[no-untyped-call]
    return mean


class _AllRows(torch.autograd.Function):
    """The rows of all replicas; the backward takes this one's."""

    @staticmethod
    def forward(ctx: Any, own: torch.Tensor, sizes: list[int], rank: int) -> torch.Tensor:
        ctx.sizes, ctx.rank = sizes, rank
        padded = own.new_zeros(max(sizes), *own.shape[1:])
        padded[: len(own)] = own
        everyone = [torch.empty_like(padded) for _ in sizes]
        dist.all_gather(everyone, padded)
        return torch.cat([part[:n] for part, n in zip(everyone, sizes, strict=True)])

    @staticmethod
    def backward(ctx: Any, *outer: torch.Tensor) -> Any:
        # Gradients are averaged over the replicas, and here they add up.
        return torch.split(outer[0], ctx.sizes)[ctx.rank] * len(ctx.sizes), None, None


class _WeightedSum(torch.autograd.Function):
    """A number of all replicas by their weights; the backward takes this one's part."""

    @staticmethod
    def forward(ctx: Any, own: torch.Tensor, weight: float, count: int) -> torch.Tensor:
        ctx.factor = weight * count
        total = own.detach() * weight
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *outer: torch.Tensor) -> Any:
        return outer[0] * ctx.factor, None, None
