"""The whole state of a model and its optimizer, of which every process has a part.

`model.state_dict()` and `optimizer.state_dict()` are those of the whole model, whatever the plan:
the other processes send their parts as soon as they ask too, train on or end
(`parplan.backend.workers.meeting`). What would leave a part on a disk without a word is refused.
"""

import contextlib
import functools
import weakref
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook

from parplan.backend.models.gpt import Block
from parplan.backend.runtime.own_part import OnAnotherProcess
from parplan.backend.runtime.pipeline import Planned
from parplan.backend.runtime.tensor_parallel import fused_rows
from parplan.backend.workers.meeting import Intent, meet, meeting
from parplan.backend.workers.processes import num_processes
from parplan.errors import ParplanError

State = dict[str, Any]

NOT_AN_OBJECT = (
    "a parallelised model cannot be copied or saved as an object: copy it before the line, or save "
    "model.state_dict()"
)


class WholeState:
    """Makes `state_dict` and `load_state_dict` of a planned model those of the whole model.

    Made by all processes before layers are taken out of the model; `begin` after that.
    """

    def __init__(self, model: nn.Module, first_names: Mapping[str, str]) -> None:
        self.model, self.first_names = model, first_names
        self.keys = list(model.state_dict())
        self._own_only = False
        self.number = len(_STATES)
        self.step: Planned | None = None
        _STATES.append(weakref.ref(self))

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise ParplanError(NOT_AN_OBJECT)

    def begin(self, step: Planned) -> None:
        """From now on, when this process has its part of `step` alone."""
        self.step = step
        if place := meeting():
            place.helps[Intent.STATE] = _send_state
            place.helps[Intent.OPTIMIZER] = _send_optimizer
        if not _SEEING:
            _SEEING.append(register_optimizer_step_post_hook(_see))
        self.model.register_state_dict_pre_hook(self._ask)  # type: ignore[no-untyped-call]
        # torch writes to the hook, which no method allows.
        complete = functools.partial(self._complete)
        self.model.register_state_dict_post_hook(complete)  # type: ignore[no-untyped-call]
        self.model.register_load_state_dict_pre_hook(self._own_part)  # type: ignore[no-untyped-call]

    @property
    def parted(self) -> bool:
        """Whether a process has a part of the model alone."""
        if self.step is None:
            return False
        plan = self.step.plan
        return plan.num_stages * plan.tensor_parallel > 1 or plan.zero_stage >= 2

    def own(self, *, keep_vars: bool = False) -> State:
        """What this process has, as it has it."""
        self._own_only = True
        try:
            found: State = self.model.state_dict(keep_vars=keep_vars)
        finally:
            self._own_only = False
        return found

    def _ask(self, *_: Any) -> None:
        self._tell_left_out(asked=True)

    def _tell_left_out(self, *, asked: bool) -> None:
        for module in self.model.modules():
            if isinstance(module, OnAnotherProcess):
                module.asked_as_whole = asked

    def _complete(self, module: nn.Module, state: State, prefix: str, metadata: Any) -> None:
        self._tell_left_out(asked=False)
        if self._own_only or not self.parted or num_processes() == 1:
            return
        whole: Any = meet(Intent.STATE, self.number)
        for key in self.keys:
            own = state.pop(prefix + key, None)
            # As torch's: what this process has is not copied.
            mine = own is not None and not isinstance(own, DTensor)
            state[prefix + key] = own if mine else whole[key]

    def gathered(self, ranks: Sequence[int]) -> State:
        """The whole state, on these processes; all of them call it."""
        own = {key: whole_tensor(self.model, key, t) for key, t in self.own().items()}
        shapes = {key: (tuple(t.shape), t.dtype) for key, t in own.items() if _is_tensor(t)}
        everyone: list[Any] = [None] * num_processes()
        dist.all_gather_object(everyone, shapes)
        me = dist.get_rank()
        device = next((t.device for t in own.values() if _is_tensor(t)), torch.device("cpu"))
        found: State = {}
        for key in self.keys:
            owners = [rank for rank, of_rank in enumerate(everyone) if key in of_rank]
            if not owners or len(owners) == len(everyone):
                found[key] = own.get(key)
                continue
            shape, dtype = everyone[owners[0]][key]
            sends = me == owners[0]
            tensor = own[key] if sends else torch.empty(shape, dtype=dtype, device=device)
            dist.broadcast(tensor.contiguous(), owners[0])
            if me in ranks:
                found[key] = own.get(key, tensor)
        for key, first in self.first_names.items():
            if key in found and first in found:
                found[key] = found[first]
        return found

    def _own_part(self, module: nn.Module, state: State, prefix: str, *_: Any) -> None:
        """Of a whole state that is loaded, leave what this process takes."""
        own = self.own(keep_vars=True)
        for key in self.keys:
            given = state.get(prefix + key)
            if key not in own:
                state.pop(prefix + key, None)
            elif isinstance(own[key], DTensor) and isinstance(given, torch.Tensor):
                state[prefix + key] = laid_out(given, own[key], rows_of(self.model, key))


_STATES: list["weakref.ref[WholeState]"] = []
_SEEING: list[Any] = []
_OPTIMIZERS: list["weakref.ref[Optimizer]"] = []
"""Those of planned models that have made a step, in that order: the same on every process."""


def _is_tensor(value: Any) -> bool:
    return isinstance(value, torch.Tensor)


def _living() -> Iterator[WholeState]:
    yield from (state for known in _STATES if (state := known()) is not None)


def _send_state(ranks: Sequence[int], number: int) -> State:
    state = _STATES[number]()
    assert state is not None
    return state.gathered(ranks)


def own_tensors(model: nn.Module) -> Iterator[tuple[str, str, Any]]:
    """This process's parameters and buffers: a name, the first of its names, the tensor."""
    whole = next((state for state in _living() if state.model is model), None)
    if whole is None:
        yield from ((n, n, tensor) for n, tensor in model.state_dict(keep_vars=True).items())
        return
    for name, tensor in whole.own(keep_vars=True).items():
        yield name, whole.first_names.get(name, name), tensor


def whole_tensor(model: nn.Module, key: str, tensor: Any) -> Any:
    """A tensor of the model as an ordinary one, its rows in the model's order.

    All processes that have a part of it call this.
    """
    if not isinstance(tensor, DTensor):
        return tensor
    rows = rows_of(model, key)
    whole = tensor.full_tensor()
    return whole if rows is None else whole[rows.argsort()].contiguous()


def laid_out(given: torch.Tensor, own: DTensor, rows: torch.Tensor | None) -> torch.Tensor:
    """A whole tensor, which every process has, distributed as `own` is."""
    if isinstance(given, DTensor):
        return given
    ordered = (given if rows is None else given[rows]).to(own.device, own.dtype)
    return distribute_tensor(ordered, own.device_mesh, own.placements, src_data_rank=None)


def rows_of(model: nn.Module, key: str, *, prefixes: bool = False) -> torch.Tensor | None:
    """The order of rows in which a split block has the tensor of this key; None: the model's.

    prefixes: the key may go on after the parameter's name, as those of optimizers do.
    """
    for module_name, module in model.named_modules():
        if isinstance(module, Block) and key.startswith(f"{module_name}."):
            if module.split_over == 1:
                return None
            inner = key.removeprefix(f"{module_name}.")
            for own, parameter in module.named_parameters():
                if inner == own or (prefixes and inner.startswith(f"{own}.")):
                    return fused_rows(module, module.split_over).get(id(parameter))
    return None


def _see(optimizer: Optimizer, *_: Any) -> None:
    """Count a step of planned parameters; let the optimizer's state be the whole one."""
    planned = [s for s in _living() if s.step is not None and s.step.is_of(optimizer)]
    place = meeting()
    if not planned or place is None:
        return
    place.optimizer_steps += 1
    known = any(one() is optimizer for one in _OPTIMIZERS)
    if not known and any(state.parted for state in planned):
        number = len(_OPTIMIZERS)
        _OPTIMIZERS.append(weakref.ref(optimizer))
        optimizer.register_state_dict_post_hook(lambda _, state: _whole_optimizer(number, state))


_PARTS_ONLY: list[bool] = []
"""Not empty while optimizers tell what this process has."""


@contextlib.contextmanager
def _parts_only() -> Iterator[None]:
    _PARTS_ONLY.append(True)
    try:
        yield
    finally:
        _PARTS_ONLY.pop()


def _whole_optimizer(number: int, state: State) -> State | None:
    if _PARTS_ONLY or num_processes() == 1:
        return None
    found: Any = meet(Intent.OPTIMIZER, number)
    if isinstance(found, str):
        raise ParplanError(found)
    return {**state, "state": found}


def _send_optimizer(ranks: Sequence[int], number: int) -> Any:
    """The states of all parameters by their number; or why these cannot be told."""
    known = _OPTIMIZERS[number]()
    assert known is not None
    with _parts_only():
        own = known.state_dict()
    parameters = [p for group in known.param_groups for p in group["params"]]
    sharded = any(isinstance(p, DTensor) for p in parameters)
    parts: list[Any] = [None] * num_processes()
    dist.all_gather_object(parts, (len(parameters), sharded, sorted(own["state"])))
    if len({part[0] for part in parts}) > 1 or any(part[1] for part in parts):
        return (
            "state_dict of an optimizer that was made of this process's part of the parameters; "
            "save with save_checkpoint of parplan.backend.runtime.checkpoint, or make the "
            "optimizer before the line"
        )
    if all(part[2] == parts[0][2] for part in parts):
        return own["state"]
    dist.all_gather_object(parts, own["state"])
    return {index: value for part in reversed(parts) for index, value in sorted(part.items())}
