"""One process of a calibration: rounds over all configurations until its time is used up."""

import json
import math
import random
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from parplan._strict import build
from parplan.backend.calibration.grid import (
    LAYERS,
    RECOMPUTATIONS,
    CalibrationSettings,
    Item,
    OptimizerStep,
    grid,
    micro_batches,
)
from parplan.backend.calibration.kernel_runs import kernel_run, optimizer_run
from parplan.backend.calibration.layer_times import LayerSetting, measure_layers
from parplan.backend.calibration.message_runs import NeighbourGroups, collective_run
from parplan.backend.calibration.operands import Operands, Run
from parplan.backend.models.gpt import gpt_layers, initialise, language_loss
from parplan.backend.workers.awake_clock import Pauses
from parplan.backend.workers.processes import agree, is_first, join_processes, num_processes
from parplan.hardware.estimates.profile import CollectiveCall
from parplan.hardware.kernels.kernel import Gemm, MemoryBound

MIN_SAMPLE_S = 2e-3
"""A sample repeats short kernels for about as long."""

MOST_REPETITIONS = 1000

MIN_ROUNDS = 2
"""Rounds of a sitting however long they take."""

SLOW = 10.0
"""A data type is left out on a CPU that takes so many times longer with it than with fp32."""

MOST_AGAIN = 10
"""So many times is a measurement tried in which processes are paused."""

Samples = list[float | None]
T = TypeVar("T")
Say = Callable[[str], None]


def sit(job: dict[str, Any], say: Say) -> dict[str, Any]:
    """Measure until `job["slice_s"]` seconds are used; returns what was found, on rank 0.

    `job["used_s"]` of them were used at `job["start"]` of the monotonic clock.
    """
    torch.set_num_threads(job["threads"])
    device = join_processes()
    sitting = _Sitting(job, device, say)
    layers_s = sitting.layers()
    sitting.undisturbed(sitting.warm_up)
    round_s = max(sitting.round() for _ in range(MIN_ROUNDS))
    while sitting.has_time_for(round_s + layers_s):
        round_s = sitting.round()
    sitting.layers()
    return {"lines": sitting.lines}


class _Sitting:
    """The measurements of one start of the processes, and the progress lines about them."""

    def __init__(self, job: dict[str, Any], device: torch.device, say: Say) -> None:
        self.job, self.device, self._say = job, device, say
        self.settings = build(CalibrationSettings, job["settings"], "job.settings")
        self.items = grid(self.settings, device.type)
        self.operands = Operands(device)
        sizes = {item.num_ranks for item in self.items if isinstance(item, CollectiveCall)}
        self.groups = NeighbourGroups(sizes) if sizes else None
        self.optimizer: Run | None = None
        self.counts: list[int | None] = [None] * len(self.items)
        self.shuffle = random.Random(f"{job['sitting']} {job['used_s']}")
        self.lines: list[dict[str, Any]] = []
        self.pauses = Pauses()
        self.lost_s = 0.0
        """In measurements that were done again."""

    def undisturbed(self, measure: Callable[[], T]) -> T:
        """What `measure` gives on all processes, again where one of them was paused meanwhile.

        All of them call this together.
        """
        for _ in range(MOST_AGAIN):
            before, start_s = self.pauses.count(), time.monotonic()
            found = measure()
            if not any(_gathered(self.pauses.count() != before)):
                break
            self.lost_s += time.monotonic() - start_s
            if is_first():
                self._say("a process was paused for a while: what was measured then is done again")
        return found

    def has_time_for(self, seconds: float) -> bool:
        """Whether so much of this sitting's slice is left, in the eyes of the first process."""
        return agree(lambda: bool(self.job["slice_s"] - self._elapsed_s() > seconds))

    def _elapsed_s(self) -> float:
        return float(self.job["used_s"] + time.monotonic() - self.job["start"] - self.lost_s)

    def say(self, kind: str, **values: Any) -> None:
        """Tell the launcher; results are kept as well."""
        line = {"sitting": self.job["sitting"], "kind": kind, **values}
        line["elapsed_s"] = round(self._elapsed_s(), 3)
        self._say(json.dumps(line))
        if kind != "progress":
            self.lines.append(line)

    def warm_up(self) -> None:
        """Find out how often each configuration is repeated for a sample, and what can't be."""
        skip = self._slow_dtypes()
        able = [
            getattr(item, "dtype", None) not in skip and self._can_run(i, item)
            for i, item in enumerate(self.items)
        ]
        able = [all(flags) for flags in zip(*_gathered(able), strict=True)]
        samples = [
            self._sample(item, _least(item)) if can else None
            for item, can in zip(self.items, able, strict=True)
        ]
        for i, of_item in enumerate(zip(*_gathered(samples), strict=True)):
            item = self.items[i]
            seconds = _merged(item, of_item)
            if seconds is not None:
                count = min(math.ceil(MIN_SAMPLE_S / max(seconds, 1e-9)), MOST_REPETITIONS)
                self.counts[i] = -(-count // _least(item)) * _least(item)

    def _can_run(self, number: int, item: Item) -> bool:
        """Do `item` once; whether that worked here."""
        self._tell_progress(number)
        try:
            self._sample(item, _least(item))
        except (RuntimeError, NotImplementedError, ValueError, TypeError):
            return False
        return True

    def _slow_dtypes(self) -> set[str]:
        """Data types that this CPU is absurdly slow with, in the eyes of any process."""
        if self.device.type != "cpu":
            return set()
        gemms = [i for i in self.items if isinstance(i, Gemm) and i.batch == 1]
        dtypes = sorted({g.dtype for g in gemms})
        seconds = {}
        for dtype in dtypes:
            kernel = next(g for g in gemms if g.dtype == dtype and g.m == g.n == g.k == 256)
            self._sample(kernel, 2)
            seconds[dtype] = self._sample(kernel, 4) or 0.0
        slow = {d for d in dtypes if seconds[d] > SLOW * seconds.get("fp32", math.inf)}
        return set().union(*_gathered(slow))

    def round(self) -> float:
        """One sample of everything, in an order of its own; returns how long that took."""
        start_s = time.perf_counter()
        everyone = self.undisturbed(self._samples)
        merged = [
            _merged(item, [samples[i] for samples in everyone]) for i, item in enumerate(self.items)
        ]
        if is_first():
            self.say("round", seconds=merged)
        return time.perf_counter() - start_s

    def _samples(self) -> list[Samples]:
        """One of everything, of all processes."""
        samples: Samples = [None] * len(self.items)
        order = list(range(len(self.items)))
        self.shuffle.shuffle(order)
        for done, i in enumerate(order):
            count = self.counts[i]
            if count is not None:
                samples[i] = self._sample(self.items[i], count)
            self._tell_progress(done)
        return _gathered(samples)

    def _sample(self, item: Item, count: int) -> float | None:
        """Seconds of one of `count` repetitions, begun by all processes together."""
        run = self._run(item)
        if dist.is_initialized():
            dist.barrier()
        if run is None:
            return None
        now = self._clock(item)
        start_s = now()
        run(count)
        return (now() - start_s) / count

    def _run(self, item: Item) -> Run | None:
        if isinstance(item, OptimizerStep):
            if self.optimizer is None:
                self.optimizer = optimizer_run(item.num_parameters, self.device)
            return self.optimizer
        if isinstance(item, CollectiveCall):
            assert self.groups is not None
            return collective_run(item, self.groups, self.device)
        return kernel_run(item, self.operands)

    def _clock(self, item: Item) -> Callable[[], float]:
        """Return the clock for `item`: the wall clock, on a GPU after synchronisation.

        For kernels on one thread of a CPU it is the time that this thread was running: what other
        programs take from it is no property of the machine. (They slow messages all the same.)
        """
        if self.device.type == "cuda":
            return self._gpu_now
        if isinstance(item, CollectiveCall) or torch.get_num_threads() > 1:
            return time.perf_counter
        return time.thread_time

    def _gpu_now(self) -> float:
        torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def _tell_progress(self, done: int) -> None:
        if done % 50 == 0 and is_first():
            self.say("progress")

    def layers(self) -> float:
        """Time the layers of the model; returns how long that took."""
        start_s = time.perf_counter()
        times = self.undisturbed(lambda: _layer_times(self.settings, self.device))
        everyone = _gathered(times)
        seconds = [
            [statistics.median(values) for values in zip(*pairs, strict=True)]
            for pairs in zip(*everyone, strict=True)
        ]
        if is_first():
            self.say("layers", seconds=seconds)
        return time.perf_counter() - start_s


def _layer_times(settings: CalibrationSettings, device: torch.device) -> list[tuple[float, float]]:
    """Forward and backward of every layer for every micro-batch size and recomputation."""
    sizes = micro_batches(settings, device.type)
    layers = gpt_layers(settings.model, settings.seq_len)
    initialise(layers, seed=0)
    shape = (max(sizes), settings.seq_len + 1)
    tokens = torch.randint(
        settings.model.vocab_size, shape, generator=torch.Generator().manual_seed(0)
    )
    batch = tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()
    asked = [LayerSetting(size, level) for size in sizes for level in RECOMPUTATIONS]
    precision = "fp32" if device.type == "cpu" else "bf16"
    times = measure_layers(
        layers, language_loss, batch, asked, range(1, len(LAYERS) - 1), device, precision
    )
    return [(t.forward_s, t.backward_s) for setting in asked for t in times[setting]]


def _least(item: Item) -> int:
    """Repetitions that make a whole: a message there and back, a copy and a sum."""
    pairs = isinstance(item, MemoryBound) or (
        isinstance(item, CollectiveCall) and item.op == "send"
    )
    return 2 if pairs else 1


def _gathered(value: Any) -> list[Any]:
    """The values of all processes."""
    everyone: list[Any] = [value] * num_processes()
    if dist.is_initialized():
        dist.all_gather_object(everyone, value)
    return everyone


def _merged(item: Item, samples: Sequence[float | None]) -> float | None:
    """The middle process's time of a kernel, the last one's of a collective."""
    found = [sample for sample in samples if sample is not None]
    if not found:
        return None
    pick: Callable[[list[float]], float] = (
        max if isinstance(item, CollectiveCall) else statistics.median
    )
    return float(pick(found))
