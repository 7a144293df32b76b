"""Plans and proxies that take turns: one step each, round after round, all processes together.

A slow moment of the machine hits all of them alike, and so does its drift.
"""

import copy
import gc
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from parplan.backend.execution.trial_run import Sample, TrialRun, one_run, step_seconds
from parplan.backend.models.chain import Chain
from parplan.backend.proxies.memory_predict import ProxyMemory, proxy_memory
from parplan.backend.proxies.memory_runs import MemoryWatch
from parplan.backend.proxies.proxy import ProxyModel
from parplan.backend.proxies.proxy_costs import ProxyCosts, proxy_costs
from parplan.backend.runtime.groups import Groups, Sizes, make_groups, sizes_of
from parplan.backend.workers.awake_clock import Pauses
from parplan.sim.plan import Plan
from parplan.sim.run import Event, Run

WATCHED_STEPS = 2
"""The first steps, whose memory is watched: the first one makes the optimizer's state."""

LEAST_ROUNDS = 4

Batch = tuple[torch.Tensor, torch.Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfiledStep:
    """One step under the profiler, process by process."""

    samples: list[Sample]
    exposed: list[dict[str, dict[str, float]]]
    """By event and stream: seconds in which a collective was waited for."""
    run: Run
    """With the collectives of the first process of every pipeline rank."""

    def exposed_s(self, timed: Run) -> dict[str, float]:
        """Exposed waiting time of another step that has the shares of this one.

        By stream within computations, and within the optimizer; mean over the processes.
        """
        found: dict[str, float] = {}
        own = {(e.rank, e.name): e.end_s - e.start_s for e in timed.events}
        width = len(self.samples) // timed.num_ranks
        for process, (sample, waits) in enumerate(zip(self.samples, self.exposed, strict=True)):
            for name, start_s, end_s in sample.marks:
                scale = own[process // width, name] / max(end_s - start_s, 1e-9)
                for stream, seconds in waits[name].items():
                    key = "optimizer" if name.startswith("optimizer") else stream
                    found[key] = found.get(key, 0.0) + scale * seconds / len(self.samples)
        return found


class SharedSetup:
    """State shared by all contestants: batch, device, precision, and process groups.

    Every group of gloo has threads that wake up all the time, so there is one of each size.
    """

    def __init__(self, batch: Batch, device: torch.device, precision: str) -> None:
        self.batch, self.device, self.precision = batch, device, precision
        self._groups: dict[Sizes, Groups] = {}

    def groups(self, plan: Plan) -> Groups:
        """Those of `plan`; all processes call this together."""
        sizes = sizes_of(plan)
        if sizes not in self._groups:
            self._groups[sizes] = make_groups(plan, self.device)
        return self._groups[sizes]


class InterleavedRun(TrialRun):
    """A plan with the memory of its second step."""

    def __init__(
        self, chain: Chain, plan: Plan, place: SharedSetup, batch: Batch | None = None
    ) -> None:
        watch = MemoryWatch(place.device)
        given = batch or place.batch, place.device, place.precision, watch, place.groups(plan)
        with watch.watching():
            super().__init__(chain, plan, *given)
        watch.add(tensor for m in self.pipeline.modules.values() for tensor in _tensors(m))
        watch.made()
        for _ in range(WATCHED_STEPS):
            self.watched_step()
        self.memory = watch.base_bytes, watch.peak_bytes, list(watch.segments)
        self.watch = None

    def profile_all(self) -> ProfiledStep:
        """One more step, under the profiler, as all processes saw it; on all of them."""
        sample, seen = self.profile()
        exposed = {name: seen.exposed_s(start, end) for name, start, end in sample.marks}
        found = everyone((sample, seen.collectives, exposed))
        samples, collectives, waits = (list(part) for part in zip(*found, strict=True))
        run = one_run(self.plan, samples, step_seconds(samples))
        zero_s = min(sample.start_s for sample in samples)
        width = self.plan.replicas * self.plan.tensor_parallel
        events = [
            Event(rank, c.stream, c.name, c.start_s - zero_s, c.end_s - zero_s)
            for rank, own in enumerate(collectives[::width])
            for c in own
        ]
        run = replace(run, events=(*run.events, *events), source="profiled")
        return ProfiledStep(samples=samples, exposed=waits, run=run)

    def peaks(self) -> list[int]:
        """Peak bytes of every process, on all of them."""
        return [peak for _, peak, _ in everyone(self.memory)]


class ProxyRun(InterleavedRun):
    """A proxy, ready to be timed."""

    def __init__(self, proxy: ProxyModel, chain: Chain, place: SharedSetup) -> None:
        plan, batch = proxy.plan, place.batch
        rows = plan.data_parallel * plan.num_micro_batches * plan.batch_per_device
        places = torch.arange(rows) % len(batch[0])
        own_batch = batch[0][places], batch[1][places]
        super().__init__(proxy_chain(chain, proxy), plan, place, own_batch)
        self.proxy = proxy

    def costs(self, warm_up: int) -> ProxyCosts:
        """Measured costs of its steps, without the profiled ones and the first `warm_up` others.

        Runs another one under the profiler, if there is a collective to wait for.
        """
        steps = self.steps(WATCHED_STEPS + warm_up)
        if self.plan.replicas * self.plan.tensor_parallel == 1:
            return proxy_costs(self.plan, steps, None)
        profiled = self.profile_all()
        return proxy_costs(self.plan, steps, (profiled.samples, profiled.exposed))

    def held(self) -> ProxyMemory:
        """Bytes held during its step."""
        found = everyone((*self.memory, self.pipeline.received_bytes()))
        bases, _, segments, received = zip(*found, strict=True)
        return proxy_memory(self.plan, segments, bases, received)


def proxy_chain(chain: Chain, proxy: ProxyModel) -> Chain:
    """A copy of the chain with as many blocks as the proxy has, evenly from all of the chain's."""
    first, last = chain.num_first, len(chain.layers) - chain.num_last
    # Together, so that what the ends share stays shared.
    ends = copy.deepcopy([*chain.layers[:first], *chain.layers[last:]])
    places = (first + i * chain.num_blocks // proxy.num_blocks for i in range(proxy.num_blocks))
    blocks = [copy.deepcopy(chain.layers[place]) for place in places]
    return Chain(
        layers=(*ends[:first], *blocks, *ends[first:]),
        num_first=chain.num_first,
        num_last=chain.num_last,
        loss_fn=chain.loss_fn,
    )


def take_turns(
    steps: Sequence[Callable[[], object]],
    rounds: int,
    say: Callable[[int], None],
    budget_s: float | None = None,
    spoil: Callable[[], None] = lambda: None,
) -> None:
    """Every step once in each round, without a garbage collector that would hit some.

    After `budget_s` seconds no round begins, but for the first `LEAST_ROUNDS`. `spoil`: is called
    behind a round in which a process was paused, which is done again; of so many rounds at most as
    many.
    """
    start_s = time.perf_counter()
    pauses, number, again = Pauses(), 0, 0
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        while number < rounds:
            before = pauses.count()
            for step in steps:
                step()
            if any(everyone(pauses.count() != before)) and again < rounds:
                again += 1
                spoil()
                continue
            number += 1
            say(number)
            late = budget_s is not None and time.perf_counter() - start_s > budget_s
            if number >= LEAST_ROUNDS and everyone(late)[0]:
                break
    finally:
        pauses.close()
        gc.enable()
        gc.unfreeze()


def everyone(own: Any) -> list[Any]:
    """Gather a value from all processes, in rank order, on all of them."""
    if not dist.is_initialized():
        return [own]
    found: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(found, own)
    return found


def _tensors(module: nn.Module) -> Iterable[torch.Tensor]:
    yield from module.parameters()
    yield from module.buffers()
