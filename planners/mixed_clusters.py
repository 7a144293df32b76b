"""Pipelines over several kinds of accelerators: where stages go, and how many blocks each has.

The setting of AMP (Li et al. 2022, arXiv:2210.07297) and Metis (Um et al. 2024, USENIX ATC): each
part of the devices is of one kind, its stages are next to each other, and all stages have as many
replicas and as much tensor parallelism. Layouts are tried in the order of a lower bound that holds
for every division of the blocks; the division is that of `split`, with the speed and the memory of
each part: the slowest rank as fast as can be, then single blocks moved by exact steps.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise, permutations
from math import gcd
from typing import NamedTuple

from parplan.errors import ParplanError
from parplan.hardware.network.cluster import Cluster, Link, enlarged
from parplan.planners.algorithms.exact.split import moves
from parplan.planners.costs.goal import IMPOSSIBLE
from parplan.planners.spaces.layouts import divisors
from parplan.sim.cost_model.stage_costs import message_bytes, model_costs, stage_costs
from parplan.sim.costs import ModelCosts, StageCosts
from parplan.sim.fast.fast import fast_step_s
from parplan.sim.memory.moments import Moments
from parplan.sim.memory.peak import rank_memory, stage_needs
from parplan.sim.plan import Plan, Recomputation, zero_fields
from parplan.sim.prediction.predict import scheduled
from parplan.sim.schedules import why_not
from parplan.sim.step.tape import Tape, lower
from parplan.sim.workload import Workload

SCHEDULES = ("1f1b", "zb-h1")
RECOMPUTATIONS: tuple[Recomputation, ...] = ("none", "selective", "full")
MOVED = 200
"""Divisions of the blocks that are tried for one layout."""
NEAR = 1.1
"""A first division that is slower than so many times the best step is not improved."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MixedTrial:
    """A plan over several parts: `plan` has the stages of all of them."""

    layout: "MixedLayout"
    plan: Plan
    parts: tuple[str, ...]
    """The cluster that each stage is on."""
    bound_s: float
    """A step takes at least so long, however the blocks are divided."""
    memory_bytes: tuple[float, ...]
    step_s: float | None = None
    reason: str = ""
    """Why it does not fit."""


class MixedLayout(NamedTuple):
    """Division of the devices and of the batch, without that of the blocks."""

    order: tuple[int, ...]
    """The parts from the first stage on."""
    stages: tuple[int, ...]
    """Of each of these."""
    plan: Plan


class MixedSearch:
    """The search over `parts`, which are joined by `between`."""

    def __init__(
        self,
        workload: Workload,
        parts: Sequence[Cluster],
        between: Link,
        memory_ratio: float = 0.8,
    ) -> None:
        """Raises `ParplanError` unless there are at least two parts, not measured ones."""
        if len(parts) < 2:
            raise ParplanError("parts: a mixed cluster needs at least two")
        if any(part.measured is not None for part in parts):
            raise ParplanError("parts: a machine that was measured cannot be part of a mixed one")
        self.workload = workload
        self.parts = tuple(parts)
        self.between = between
        self.memory_ratio = memory_ratio
        total = sum(part.num_accelerators for part in parts)
        # Ranks of the whole pipeline exist in each of them.
        self._views = [enlarged(p, -(-total // p.num_accelerators)) for p in parts]
        self._layers: dict[tuple[object, ...], ModelCosts] = {}
        self._lists: dict[tuple[object, ...], tuple[Tape, tuple[Moments, ...]]] = {}

    def layouts(self) -> Iterator[MixedLayout]:
        """Every division of the devices and the batch."""
        counts = [part.num_accelerators for part in self.parts]
        node = gcd(*(part.num_accelerators // part.num_nodes for part in self.parts))
        model, batch = self.workload.model, self.workload.global_batch
        sizes = (model.num_kv_heads, model.ffn_size, model.hidden_size)
        for tensor in (t for t in divisors(node) if all(s % t == 0 for s in sizes)):
            for data in divisors(gcd(*counts) // tensor):
                stages = [count // (tensor * data) for count in counts]
                if batch % data or sum(stages) > model.num_layers:
                    continue
                for order in permutations(range(len(counts))):
                    own = tuple(stages[part] for part in order)
                    for plan in self._plans(tensor, data, sum(stages)):
                        yield MixedLayout(order, own, plan)

    def _plans(self, tensor: int, data: int, stages: int) -> Iterator[Plan]:
        per_replica = self.workload.global_batch // data
        sequence = tensor > 1 and self.workload.seq_len % tensor == 0
        for size in divisors(per_replica):
            for schedule in SCHEDULES:
                if why_not(schedule, stages, per_replica // size, 1):
                    continue
                for again in RECOMPUTATIONS:
                    for zero in range(4) if data > 1 else (0,):
                        yield Plan(
                            num_stages=stages,
                            num_micro_batches=per_replica // size,
                            batch_per_device=size,
                            data_parallel=data,
                            tensor_parallel=tensor,
                            sequence_parallel=sequence,
                            recomputation=again,
                            schedule=schedule,
                            **zero_fields(zero),  # type: ignore[arg-type]
                        )

    def bound_s(self, layout: MixedLayout) -> float:
        """Lower bound of a step, in seconds: all work spread over the ranks by their speed."""
        rate = sum(
            count / self._block_s(part, layout.plan)
            for part, count in zip(layout.order, layout.stages, strict=True)
        )
        blocks = self.workload.model.num_layers
        return layout.plan.num_micro_batches * blocks / rate * (1 - 1e-9)

    def _block_s(self, part: int, plan: Plan) -> float:
        """Time of the fastest kind of block, a lower bound for every division."""
        again = plan.recomputation != "none"
        costs = self._costs_of(part, plan).blocks
        return min(
            c.forward_s + c.recompute_s + c.input_gradient_s + c.weight_gradient_s
            for (_, recomputed), c in costs.items()
            if recomputed == again
        )

    def _costs_of(self, part: int, plan: Plan) -> ModelCosts:
        key = (
            *(part, plan.tensor_parallel, plan.batch_per_device, plan.recomputation),
            plan.num_micro_batches > 1,
        )
        if key not in self._layers:
            self._layers[key] = model_costs(self.workload, self._views[part], plan)
        return self._layers[key]

    def part_of_stages(self, layout: MixedLayout) -> list[int]:
        """The part that each stage is on."""
        pairs = zip(layout.order, layout.stages, strict=True)
        return [part for part, count in pairs for _ in range(count)]

    def costs(self, layout: MixedLayout, plan: Plan) -> tuple[StageCosts, ...]:
        """Costs of every stage on its devices.

        Messages of a stage that has a neighbour elsewhere take as long as between the parts, in
        both directions.
        """
        on = self.part_of_stages(layout)
        own = {
            part: stage_costs(self.workload, self._views[part], plan, self._costs_of(part, plan))
            for part in set(on)
        }
        found = [own[part][stage] for stage, part in enumerate(on)]
        send_s = message_bytes(self.workload, plan) / self.between.bytes_per_s
        for stage, (a, b) in enumerate(pairwise(on)):
            for end in (stage, stage + 1) if a != b else ():
                found[end] = replace(
                    found[end],
                    send_s=max(send_s, found[end].send_s),
                    latency_s=max(self.between.latency_s, found[end].latency_s),
                )
        return tuple(found)

    def trial(self, layout: MixedLayout, layers: tuple[int, ...], bound_s: float) -> MixedTrial:
        """The plan with so many blocks on each stage."""
        plan = replace(layout.plan, stage_layers=layers)
        tape, moments = self._of_lists(plan)
        memory = rank_memory(stage_needs(self.workload, plan), moments)
        on = self.part_of_stages(layout)
        totals = tuple(rank.total_bytes for rank in memory)
        reason = ""
        for stage, (part, total) in enumerate(zip(on, totals, strict=True)):
            limit = self.limit_bytes(part)
            if total > limit and not reason:
                name = self.parts[part].accelerator.name
                reason = f"stage {stage} on {name}: {total / 1e9:.1f} of {limit / 1e9:.1f} GB"
        step_s = None if reason else fast_step_s(tape, self.costs(layout, plan))
        names = tuple(self.parts[part].name for part in on)
        return MixedTrial(
            layout=layout,
            plan=plan,
            parts=names,
            bound_s=bound_s,
            memory_bytes=totals,
            step_s=step_s,
            reason=reason,
        )

    def limit_bytes(self, part: int) -> float:
        """Bytes that a plan may use of each device of a part."""
        return self.memory_ratio * self.parts[part].accelerator.memory_bytes

    def _of_lists(self, plan: Plan) -> tuple[Tape, tuple[Moments, ...]]:
        key = plan.schedule, plan.num_stages, plan.num_micro_batches
        if key not in self._lists:
            lists = scheduled(plan)
            self._lists[key] = lower(lists.schedule), lists.moments
        return self._lists[key]

    def first_division(self, layout: MixedLayout) -> tuple[int, ...]:
        """Blocks of each stage by the speed of its devices.

        One after the other to the rank that is soonest done; the ends of the model count as well.
        """
        on, plan = self.part_of_stages(layout), layout.plan
        each = [self._block_s(part, plan) for part in on]
        costs = [self._costs_of(part, plan) for part in on]
        busy = list(each)
        for stage, end in ((0, costs[0].embedding), (len(on) - 1, costs[-1].head)):
            busy[stage] += end.forward_s + end.input_gradient_s + end.weight_gradient_s
        layers = [1] * len(on)
        for _ in range(self.workload.model.num_layers - len(on)):
            stage = min(range(len(on)), key=lambda s: busy[s] + each[s])
            layers[stage] += 1
            busy[stage] += each[stage]
        return tuple(layers)

    def best_division(self, layout: MixedLayout, bound_s: float, best_s: float) -> MixedTrial:
        """Single blocks are moved as long as the step gets shorter, or less memory lacks.

        The first division is left as it is where it is far slower than `best_s`, or where all the
        memory would not do.
        """
        best = self.trial(layout, self.first_division(layout), bound_s)
        limits = map(self.limit_bytes, self.part_of_stages(layout))
        hopeless = sum(best.memory_bytes) > sum(limits) or (best.step_s or 0.0) > NEAR * best_s
        tried = 1
        while tried < MOVED and not hopeless:
            near = [
                self.trial(layout, layers, bound_s)
                for layers in moves(best.plan.layers_of_stages(0))
            ]
            tried += len(near)
            better = min(near, key=self._order, default=best)
            if self._order(better) >= self._order(best):
                break
            best = better
        return best

    def _order(self, trial: MixedTrial) -> tuple[float, float]:
        lack = 0.0
        by_name = {part.name: number for number, part in enumerate(self.parts)}
        for name, total in zip(trial.parts, trial.memory_bytes, strict=True):
            lack += max(0.0, total - self.limit_bytes(by_name[name]))
        return lack, IMPOSSIBLE if trial.step_s is None else trial.step_s


class MixedReport(NamedTuple):
    """The result of a search."""

    trials: tuple[MixedTrial, ...]
    """Every layout that was tried, with the best division that was found for it."""
    num_layouts: int
    least_s: float
    """No plan, however its blocks are divided, takes less."""
    stopped: str

    @property
    def best(self) -> MixedTrial | None:
        """The fastest plan that fits; None if none does."""
        timed = [trial for trial in self.trials if trial.step_s is not None]
        return min(timed, key=lambda t: t.step_s or 0.0, default=None)


def mixed_search(
    search: MixedSearch, progress: Callable[[str, int, int], None] = lambda what, done, of: None
) -> MixedReport:
    """Try layouts, the one with the least bound first, until none can be better.

    Raises `ParplanError` where no layout uses all devices.
    """
    layouts = sorted(
        ((search.bound_s(layout), n, layout) for n, layout in enumerate(search.layouts())),
        key=lambda item: item[:2],
    )
    if not layouts:
        names = " and ".join(f"{p.name} ({p.num_accelerators})" for p in search.parts)
        raise ParplanError(
            f"global batch: {search.workload.global_batch} sequences and the layers of "
            f"{search.workload.model.name} do not divide over {names} in any plan"
        )
    trials: list[MixedTrial] = []
    best_s, stopped = IMPOSSIBLE, "finished"
    try:
        for done, (bound_s, _, layout) in enumerate(layouts):
            if bound_s >= best_s:
                break
            trials.append(search.best_division(layout, bound_s, best_s))
            best_s = min(best_s, trials[-1].step_s or IMPOSSIBLE)
            progress("layouts", done + 1, len(layouts))
    except KeyboardInterrupt:
        stopped = "interrupted"
    open_s = [t.bound_s for t in trials if t.bound_s < best_s]
    open_s += [bound_s for bound_s, _, _ in layouts[len(trials) :]]
    return MixedReport(tuple(trials), len(layouts), min([best_s, *open_s]), stopped)
