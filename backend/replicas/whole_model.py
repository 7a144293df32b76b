"""Data parallelism for any model and any loss, where no chain of layers can be cut.

Every process computes its rows of the batch by the model's own forward. What comes out is put
together again, so that the script goes on with the outputs of the whole batch and computes a loss
from them, or gets the loss that the model returns; the backward takes each process's part.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from parplan.backend.executable import reduces_by_hooks
from parplan.backend.models.chain import evaluating
from parplan.backend.models.flops import Counted
from parplan.backend.replicas.alike_numbers import AlikeNumbers
from parplan.backend.replicas.batch_statistics import (
    can_be_shared,
    normalised_by_batch,
    shared_statistics,
)
from parplan.backend.replicas.division import Call, Output, Place, divisions, form_of, rows_of
from parplan.backend.replicas.learned import Learned, learn, weights_now
from parplan.backend.replicas.leaves import map_leaves, tensors_of
from parplan.backend.replicas.row_gradients import (
    AllRows,
    BackwardOnce,
    OwnRows,
    SameInput,
    WeightedSum,
)
from parplan.backend.runtime.groups import make_groups
from parplan.backend.runtime.recorded_stage import Clock
from parplan.backend.runtime.sharding import replicate
from parplan.errors import ParplanError
from parplan.sim.plan import Plan

TOLERANCE = {False: 1e-4, True: 3e-2}
"""Relative, of what the parts of a batch give to what all of it gives at once; the second where
something is computed in half precision."""


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
        self._learned: dict[tuple[object, ...], Learned] = {}
        self._once = self._backward_once()
        self.flops = Counted()
        self._shares_statistics = can_be_shared(model)

    def _backward_once(self) -> BackwardOnce:
        trained = [p for p in self._known if p.requires_grad and reduces_by_hooks(self.plan)]
        return BackwardOnce(next(iter(trained), None))

    @property
    def count(self) -> int:
        """Replicas."""
        return self.plan.data_parallel

    @property
    def keeps_batch_statistics(self) -> bool:
        """Whether BatchNorm sees all rows, as in one process."""
        return self._shares_statistics

    def parameters(self) -> Iterator[nn.Parameter]:
        """This process's, or its parts of them."""
        yield from self.own.parameters()

    def is_of(self, optimizer: Optimizer) -> bool:
        """Whether `optimizer` is of this model's parameters."""
        known = {id(p) for p in (*self._known, *self.parameters())}
        return any(id(p) in known for group in optimizer.param_groups for p in group["params"])

    def prepare(self, call: Call) -> None:
        """Make the replicas; find out how the outputs of a batch follow from those of its parts.

        Raises `ParplanError` for a model whose outputs for a row depend on other rows.
        """
        if self.count == 1:
            return
        if not self.drawn_in_parts and (how := self._how(call)) is not None:
            rows = how[0].division.size(call)
            self.plan = replace(self.plan, batch_per_device=-(-rows // self.count))
        if reduces_by_hooks(self.plan):
            # Which parameters are used may change from step to step (experts).
            self._module = DistributedDataParallel(
                self.own, process_group=self.groups.group("shards"), find_unused_parameters=True
            )
        else:
            self._module = replicate(self.own, _units(self.own.model), self.plan, self.groups)

    def _how(self, call: Call) -> tuple[Learned, tuple[float, ...]] | None:
        """How calls like this one are divided, and the weights of the parts.

        None for a batch of fewer rows than replicas. What an earlier call left open is tried again.
        """
        form = form_of(call)
        known = self._learned.get(form)
        if known is not None and known.division.fits(call):
            if known.division.size(call) < self.count:
                return None
            if (weights := weights_now(known, call, self.count)) is not None:
                return known, weights
        candidates = [d for d in divisions(call) if d.fits(call)]
        if not candidates:
            raise ParplanError(
                "a parallelised model is called with tensors, one dimension of which is rows"
            )
        large = [d for d in candidates if d.size(call) >= self.count]
        if not large:
            return None
        name = type(self.own.model).__name__
        next_first = name.endswith(("ForCausalLM", "LMHeadModel"))
        with torch.no_grad(), evaluating(self.own):
            found = learn(
                *(self._alike(), call, large, self.count, TOLERANCE[self._is_rough()], known),
                next_first=next_first,
            )
        if isinstance(found, str):
            raise ParplanError(f"{name}: {found}")
        self._learned[form] = found
        weights = weights_now(found, call, self.count)
        assert weights is not None
        return found, weights

    def _alike(self) -> Callable[[Call], Any]:
        """The forward, with the same random numbers for all rows where it draws any."""
        numbers: list[AlikeNumbers] = []

        def run(call: Call) -> Any:
            if not numbers:
                before = torch.get_rng_state()
                first = next(iter(tensors_of(call)), torch.empty(0))
                with self.flops.forward_of(self.own, first):
                    found = self.forward(*call[0], **call[1])
                numbers.append(AlikeNumbers())
                if torch.equal(before, torch.get_rng_state()) and self.device.type == "cpu":
                    numbers[0].idle = True
                    return found
            if numbers[0].idle:
                return self.forward(*call[0], **call[1])
            with numbers[0]:
                found = self.forward(*call[0], **call[1])
            numbers[0].again()
            return found

        return run

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
        if self.drawn_in_parts:
            return self._of_part(call)
        how = self._how(call)
        if how is None:
            # Fewer rows than replicas: all compute all of them, and average what is the same.
            part = map_leaves(self._as_same, call)
            return self._module(*part[0], **part[1])
        known, weights = how
        size, rank = known.division.size(call), self.groups.data_rank
        sizes = [len(rows) for rows in known.parts(size, self.count)]
        own = known.parts(size, self.count)[rank]

        def take(leaf: torch.Tensor, place: Place) -> torch.Tensor:
            if not leaf.requires_grad:
                rows: torch.Tensor = rows_of(leaf, place, own)
                return rows
            if isinstance(place, int):
                return OwnRows.apply(leaf, place, sizes, rank)  # type: ignore[no-any-return, no-untyped-call]
            return self._as_same(leaf)  # type: ignore[no-any-return]

        args, named = known.division.part(call, own, take)
        with self._statistics():
            outputs = self._module(*args, **named)
        kinds = iter(known.outputs)
        return map_leaves(
            lambda leaf: self._joined(leaf, next(kinds, None), sizes, weights), outputs
        )

    def _statistics(self) -> contextlib.AbstractContextManager[None]:
        shared = self._shares_statistics and normalised_by_batch(self.own)
        return shared_statistics(self.own) if shared else contextlib.nullcontext()

    def _as_same(self, leaf: Any) -> Any:
        if isinstance(leaf, torch.Tensor) and leaf.requires_grad:
            return SameInput.apply(leaf, self.count)  # type: ignore[no-untyped-call]
        return leaf

    def _joined(
        self, leaf: Any, output: Output | None, sizes: Sequence[int], weights: Sequence[float]
    ) -> Any:
        """A leaf of the outputs of the whole batch from that of this part."""
        if output is None or output.kind == "same":
            return leaf
        rank = self.groups.data_rank
        if output.kind == "rows":
            each = leaf.shape[output.dim] // sizes[rank] if sizes[rank] else 1
            parts = [n * each for n in sizes]
            return AllRows.apply(leaf, output.dim, parts, rank, self._once)  # type: ignore[no-untyped-call]
        weight = weights[rank] if output.kind == "mean" else 1
        value = torch.as_tensor(leaf, device=self.device)
        total = WeightedSum.apply(value, weight, self.count, self._once)  # type: ignore[no-untyped-call]
        return total if isinstance(leaf, torch.Tensor) else total.item()

    def _of_part(self, call: Call) -> Any:
        """The outputs of the rows that this process has drawn; the mean of a loss over all."""
        assert self._module is not None
        tensors = [tensor for tensor in tensors_of(call) if tensor.dim() > 0]
        own = torch.tensor([len(tensors[0]) if tensors else 1], device=self.device)
        everyone = [torch.empty_like(own) for _ in range(self.count)]
        dist.all_gather(everyone, own)
        total = sum(int(one) for one in everyone)
        weights = [int(one) / total for one in everyone]
        with self._statistics():
            outputs = self._module(*call[0], **call[1])

        def mean(leaf: Any) -> Any:
            if not isinstance(leaf, torch.Tensor) or leaf.dim() or not leaf.is_floating_point():
                return leaf
            return self._joined(leaf, Output("mean"), [], weights)

        return map_leaves(mean, outputs)


def _units(model: nn.Module) -> Iterator[nn.Module]:
    """Blocks that are gathered together where parameters are sharded."""
    for module in model.modules():
        if isinstance(module, nn.ModuleList | nn.Sequential) and len(module) > 1:
            yield from module
            return
