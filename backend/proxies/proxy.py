"""Proxy models (proxies): small runs that are measured to predict a plan.

The proxy of a plan is the same plan of a model of few blocks on every stage, with few micro-
batches: wrapped by the same parts of torch, run by the same runtime, on the same processes. Plans
that differ in depth, number of micro-batches or order alone share proxies. Costs are lines over the
blocks of a stage, through proxies of two depths. Imports no torch.
"""

import dataclasses
from collections.abc import Iterator
from typing import NamedTuple

from parplan.sim.plan import Plan
from parplan.sim.schedules import make_schedule, schedule_kind, why_not

DEPTHS = ((1, 3), (2, 4))
"""Blocks on every stage of the two proxies; the first pair that is no depth of the plan's own."""

MICRO_BATCHES = (3, 4, 2, 6, 8, 5, 10, 12)
"""How many a proxy has: the first number that its schedule allows and the plan does not have."""

WHOLE = {"loop": "interleaved-1f1b", "v": "hanayo"}
SPLIT = {"loop": "interleaved-zb", "v": "zb-v"}
"""The schedule of proxies of several stages per rank, with whole and with split backwards."""


class ProxyModel(NamedTuple):
    """One proxy: a plan of a model of so many blocks. Equal ones are measured once."""

    plan: Plan
    depth: int
    """Blocks on every stage."""

    @property
    def num_blocks(self) -> int:
        """The number of blocks of the whole model."""
        return self.depth * self.plan.total_stages


class Family(NamedTuple):
    """The proxies of two depths that give one line."""

    shallow: ProxyModel
    deep: ProxyModel

    def at(self, blocks: float, values: tuple[float, float]) -> float:
        """The line through the values of the two, at a stage of so many blocks."""
        slope = (values[1] - values[0]) / (self.deep.depth - self.shallow.depth)
        return values[0] + slope * (blocks - self.shallow.depth)

    def seconds_at(self, blocks: float, seconds: tuple[float, float]) -> float:
        """The time of a stage of so many blocks, from the measured times of the two proxies.

        The line through both, held to what any time obeys however noisy the measurements are: more
        blocks take no less time, and what takes time in both proxies takes it in every stage. Where
        the deep proxy measured faster than the shallow one, their mean counts for every depth; a
        stage of fewer blocks than the shallow proxy takes at least its share of that proxy's time.
        """
        shallow_s, deep_s = seconds
        if deep_s < shallow_s:
            return (shallow_s + deep_s) / 2
        share_s = shallow_s * min(1.0, blocks / self.shallow.depth)
        return max(share_s, self.at(blocks, seconds))


class Proxies(NamedTuple):
    """The families that predict one plan."""

    whole: Family | None
    """For its forwards and whole backwards."""
    split: Family | None
    """For split backwards; and for forwards where there is no other."""
    kept: "Proxies | None"
    """The same without recomputation, where only some blocks are recomputed."""

    def families(self) -> Iterator[Family]:
        """All of them."""
        yield from (family for family in (self.whole, self.split) if family is not None)
        if self.kept is not None:
            yield from self.kept.families()


def proxies_of(plan: Plan, num_blocks: int) -> Proxies:
    """The proxies that predict `plan` for a model of so many blocks."""
    schedule = make_schedule(
        plan.schedule, plan.num_stages, plan.num_micro_batches, plan.virtual_stages
    )
    ops = {action.op for actions in schedule for action in actions}
    kept = None
    some = plan.recomputed_layers is not None or plan.recomputed_of_stages is not None
    if plan.recomputation != "none" and some:
        other = dataclasses.replace(
            plan, recomputation="none", recomputed_layers=None, recomputed_of_stages=None
        )
        kept = proxies_of(other, num_blocks)
    return Proxies(
        whole=_family(plan, num_blocks, split=False) if "B" in ops else None,
        split=_family(plan, num_blocks, split=True) if "I" in ops else None,
        kept=kept,
    )


def _family(plan: Plan, num_blocks: int, *, split: bool) -> Family:
    own = set(plan.layers_of_stages(num_blocks))
    depths = next((pair for pair in DEPTHS if not own & set(pair)), DEPTHS[0])
    schedule = _schedule(plan, split)
    changed = dataclasses.replace(
        plan,
        schedule=schedule,
        num_micro_batches=_micro_batches(plan, schedule),
        recomputed_layers=None,
        recomputed_of_stages=None,
        stage_layers=None,
    )
    shallow, deep = (ProxyModel(changed, depth) for depth in depths)
    return Family(shallow, deep)


def _schedule(plan: Plan, split: bool) -> str:
    if plan.virtual_stages == 1:
        return "zb-h1" if split else "1f1b"
    return (SPLIT if split else WHOLE)[schedule_kind(plan.schedule).placement]


def _micro_batches(plan: Plan, schedule: str) -> int:
    """Micro-batches of a proxy: one where the plan has one, which is first and last at once."""
    if plan.num_micro_batches == 1 and plan.num_stages == 1:
        return 1
    sizes = plan.num_stages, plan.virtual_stages
    allowed = [m for m in MICRO_BATCHES if not why_not(schedule, sizes[0], m, sizes[1])]
    return next((m for m in allowed if m != plan.num_micro_batches), allowed[0])
