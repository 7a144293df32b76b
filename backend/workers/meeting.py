"""Agreement of all processes on what they do next.

Before anything that needs all of them, each says what it is about to do and on what. Different
batches, or one process that trains while another has ended, are found before a weight changes.
What only one of them asks for, such as the whole state of the model, the others help with as soon
as they meet it, also at the end of their script.
"""

import atexit
import contextlib
import datetime
import sys
import zlib
from collections.abc import Callable, Iterator, Sequence
from enum import IntEnum
from typing import Any, NoReturn

import torch
import torch.distributed as dist

from parplan.backend.workers.neighbour_watch import timeout_s
from parplan.errors import ParplanError, RunFailedError


class Intent(IntEnum):
    """What a process is about to do; those before `STEP` are helped with by the others."""

    STATE = 0
    OPTIMIZER = 1
    STEP = 2
    EVALUATION = 3
    CHECKPOINT = 4
    END = 5


TEXTS = {
    Intent.STATE: "asks for the state of the model",
    Intent.OPTIMIZER: "asks for the state of the optimizer",
    Intent.STEP: "trains",
    Intent.EVALUATION: "evaluates without gradients",
    Intent.CHECKPOINT: "saves or loads a checkpoint",
    Intent.END: "has come to its end",
}

Words = tuple[int, ...]
NUM_WORDS = 3

Help = Callable[[Sequence[int], int], object]
"""(the ranks that ask; which model or optimizer) -> what they get. All processes call it."""


class Meeting:
    """One for all models of a script; made by all processes together, and used in one order."""

    def __init__(self) -> None:
        limit = datetime.timedelta(seconds=1.5 * timeout_s() + 5)
        # Of the host alone: nothing waits for a GPU.
        self.group = dist.new_group(backend="gloo", timeout=limit)
        self.helps: dict[Intent, Help] = {}
        self.optimizer_steps = 0
        """Of optimizers of planned models, counted by `parplan.backend.runtime.whole_state`."""
        self.failed = False
        self._watch_failures()
        atexit.register(self._end)

    def meet(self, intent: Intent, *words: int) -> object:
        """Go on when all processes do the same on the same; what was asked for, if anything.

        Raises `ParplanError` on every process where they differ.
        """
        mine = (*words, *(0,) * (NUM_WORDS - len(words)))
        while True:
            everyone = self._tell((int(intent), self.optimizer_steps, *mine))
            asked = min(Intent(said[0]) for said in everyone)
            if asked < Intent.STEP:
                found = self._help(asked, everyone)
                if intent == asked:
                    return found
                continue
            self._check(everyone)
            return None

    def _tell(self, said: Words) -> list[Words]:
        own = torch.tensor(said)
        everyone = [torch.empty_like(own) for _ in range(dist.get_world_size())]
        dist.all_gather(everyone, own, group=self.group)
        return [tuple(other.tolist()) for other in everyone]

    def _help(self, asked: Intent, everyone: Sequence[Words]) -> object:
        ranks = [rank for rank, said in enumerate(everyone) if said[0] == asked]
        steps = [said[1] for said in everyone]
        if min(steps) != max(steps):
            raise ParplanError(
                f"process {ranks[0]} {TEXTS[asked]} when processes have made {min(steps)} to "
                f"{max(steps)} steps of the optimizer; ask after the step, or on every process"
            )
        return self.helps[asked](ranks, everyone[ranks[0]][2])

    def _check(self, everyone: Sequence[Words]) -> None:
        first = everyone[0]
        for rank, said in enumerate(everyone):
            if said[0] != first[0]:
                raise ParplanError(
                    f"process {rank} {TEXTS[Intent(said[0])]} while process 0 "
                    f"{TEXTS[Intent(first[0])]}; every process has to run the same loop"
                )
            if said[1] != first[1]:
                raise ParplanError(
                    f"process {rank} has made {said[1]} steps of the optimizer, process 0 "
                    f"{first[1]}; every process has to run the same loop"
                )
            if said[2:] != first[2:]:
                raise ParplanError(
                    f"process {rank} was given another batch than process 0 after {said[1]} steps "
                    "of the optimizer; every process has to see the same global batch in the same "
                    "order (call torch.manual_seed at the top of the script; with a "
                    "DistributedSampler say batch='part')"
                )

    def _watch_failures(self) -> None:
        before = sys.excepthook

        def hook(*raised: object) -> None:
            self.failed = True
            before(*raised)  # type: ignore[arg-type]

        hook.by_parplan = getattr(before, "by_parplan", False)  # type: ignore[attr-defined]
        sys.excepthook = hook
        leave = sys.exit

        def exit_with(status: Any = None) -> NoReturn:
            self.failed = self.failed or status not in (None, 0)
            leave(status)

        sys.exit = exit_with

    def _end(self) -> None:
        """Help those who go on, until all have come to their end."""
        if self.failed or not dist.is_initialized():
            return
        with contextlib.suppress(ParplanError, RunFailedError, RuntimeError):
            self.meet(Intent.END)


_MEETING: list[Meeting] = []


@contextlib.contextmanager
def uncounted() -> Iterator[None]:
    """Steps of an optimizer in the body are not those of the training."""
    counts = [place.optimizer_steps for place in _MEETING]
    try:
        yield
    finally:
        for place, count in zip(_MEETING, counts, strict=True):
            place.optimizer_steps = count


def meeting() -> Meeting | None:
    """The meeting of the processes that run, made at the first call; None for one alone."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return None
    if not _MEETING:
        _MEETING.append(Meeting())
    return _MEETING[0]


def meet(intent: Intent, *words: int) -> object:
    """`Meeting.meet`, if there are others to meet."""
    place = meeting()
    return None if place is None else place.meet(intent, *words)


def checksum(*parts: torch.Tensor) -> int:
    """A number of shapes, types and values in their places; 63 bits."""
    total = 0
    for part in parts:
        words = _words(part)
        # Odd weights, so that no word is lost in the sum modulo 2**64.
        weights = torch.arange(len(words), device=words.device).mul_(0x9E3779B1 * 2).add_(1)
        shape = zlib.crc32(f"{tuple(part.shape)} {part.dtype}".encode())
        total = total * 1000003 + int((words * weights).sum()) * 31 + shape
    return total % 2**63


def _words(part: torch.Tensor) -> torch.Tensor:
    """Its bytes in 64-bit words, the last one filled up."""
    data = part.detach().contiguous().flatten().view(torch.uint8)
    whole = len(data) // 8 * 8
    rest = torch.zeros(8, dtype=torch.uint8, device=data.device)
    rest[: len(data) - whole] = data[whole:]
    # A copy where the storage does not begin at a word.
    head = data[:whole] if data.storage_offset() % 8 == 0 else data[:whole].clone()
    return torch.cat([head.view(torch.int64), rest.view(torch.int64)])
