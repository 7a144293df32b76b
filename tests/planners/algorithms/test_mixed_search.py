"""The search over several kinds of accelerators beside hand computations."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import permutations, product
from typing import Any

import pytest

from parplan.errors import ParplanError
from parplan.hardware.network.cluster import enlarged
from parplan.planners.mixed_clusters import (
    MixedLayout,
    MixedReport,
    MixedSearch,
    MixedTrial,
    mixed_search,
)
from parplan.sim.cost_model.stage_costs import message_bytes, model_costs, stage_costs
from parplan.sim.plan import Plan
from parplan.sim.schedules import why_not
from parplan.sim.workload import Workload
from tests.planners.algorithms.test_mixed import FAST, LINK, SLOW, WORKLOAD

SEARCH = MixedSearch(WORKLOAD, [SLOW, FAST], LINK)
LAYOUTS = list(SEARCH.layouts())


def test_every_division_of_devices_and_batch_is_there_once() -> None:
    """Parts of 2 and 4 devices, all on one node each: as many replicas, of whole stages."""
    wide = replace(FAST, name="4", num_nodes=1, tiers=(replace(FAST.tiers[-1], size=4),))
    work = replace(WORKLOAD, global_batch=6)
    found = list(MixedSearch(work, [SLOW, wide], LINK).layouts())
    wanted = set()
    for tensor, data in ((1, 1), (1, 2), (2, 1)):
        stages = [2 // (tensor * data), 4 // (tensor * data)]
        for order in permutations(range(2)):
            for size in (s for s in (1, 2, 3, 6) if (6 // data) % s == 0):
                for schedule, again in product(("1f1b", "zb-h1"), ("none", "selective", "full")):
                    count = 6 // data // size
                    if why_not(schedule, sum(stages), count, 1):
                        continue
                    for zero in range(4) if data > 1 else (0,):
                        own = tuple(stages[part] for part in order)
                        wanted.add((order, own, tensor, data, size, count, schedule, again, zero))
    keys = [
        (
            *(x.order, x.stages, x.plan.tensor_parallel, x.plan.data_parallel),
            *(x.plan.batch_per_device, x.plan.num_micro_batches, x.plan.schedule),
            *(x.plan.recomputation, x.plan.zero_stage),
        )
        for x in found
    ]
    assert sorted(keys) == sorted(wanted)
    assert all(x.plan.num_stages == sum(x.stages) for x in found)
    assert all(x.plan.sequence_parallel == (x.plan.tensor_parallel > 1) for x in found)
    odd = MixedSearch(replace(work, seq_len=2047), [SLOW, wide], LINK).layouts()
    assert not any(x.plan.sequence_parallel for x in odd)
    # Ranks of the whole pipeline, of which there are six, exist on each part.
    views = MixedSearch(work, [SLOW, wide], LINK)._views
    assert [view.num_accelerators for view in views] == [6, 8]
    few = replace(work, model=replace(work.model, num_layers=3))
    assert {sum(x.stages) for x in MixedSearch(few, [SLOW, wide], LINK).layouts()} == {3}


def block_s(part: int, plan: Plan) -> float:
    """Of one block, in both directions."""
    view = enlarged([SLOW, FAST][part], 2)
    costs = model_costs(WORKLOAD, view, plan).blocks
    ((own),) = [c for (_, again), c in costs.items() if again == (plan.recomputation != "none")]
    return own.forward_s + own.recompute_s + own.input_gradient_s + own.weight_gradient_s


@pytest.mark.parametrize("at", range(0, len(LAYOUTS), max(1, len(LAYOUTS) // 7)))
def test_the_bound_is_all_work_over_all_speed(at: int) -> None:
    layout = LAYOUTS[at]
    plan = layout.plan
    speed = sum(
        n / block_s(part, plan) for part, n in zip(layout.order, layout.stages, strict=True)
    )
    assert SEARCH.bound_s(layout) == pytest.approx(plan.num_micro_batches * 8 / speed, rel=1e-8)
    assert SEARCH.bound_s(layout) < plan.num_micro_batches * 8 / speed


@pytest.mark.parametrize("at", range(0, len(LAYOUTS), max(1, len(LAYOUTS) // 7)))
def test_each_block_goes_to_the_rank_that_is_soonest_done(at: int) -> None:
    layout = LAYOUTS[at]
    layers = SEARCH.first_division(layout)
    on = SEARCH.part_of_stages(layout)
    assert on == [p for p, n in zip(layout.order, layout.stages, strict=True) for _ in range(n)]
    assert (len(layers), sum(layers), min(layers) >= 1) == (len(on), 8, True)
    each = [block_s(part, layout.plan) for part in on]
    busy = [n * own for n, own in zip(layers, each, strict=True)]
    for stage, end in ((0, "embedding"), (-1, "head")):
        costs = model_costs(WORKLOAD, enlarged([SLOW, FAST][on[stage]], 2), layout.plan)
        own = getattr(costs, end)
        busy[stage] += own.forward_s + own.input_gradient_s + own.weight_gradient_s
    for stage, count in enumerate(layers):
        if count > 1:
            sooner = min(b + e for b, e in zip(busy, each, strict=True))
            assert busy[stage] <= sooner * (1 + 1e-9)


def test_messages_between_parts_take_their_link() -> None:
    layout = next(x for x in LAYOUTS if x.stages == (2, 2) and x.plan.num_micro_batches > 1)
    plan = replace(layout.plan, stage_layers=(1, 2, 2, 3))
    found = SEARCH.costs(layout, plan)
    own = [
        stage_costs(WORKLOAD, view, plan, model_costs(WORKLOAD, view, plan))
        for view in (enlarged(SLOW, 2), enlarged(FAST, 2))
    ]
    on = SEARCH.part_of_stages(layout)
    send_s = message_bytes(WORKLOAD, plan) / LINK.bytes_per_s
    for stage, cost in enumerate(found):
        plain = own[on[stage]][stage]
        if stage in (1, 2):
            plain = replace(
                plain,
                send_s=max(send_s, plain.send_s),
                latency_s=max(LINK.latency_s, plain.latency_s),
            )
        assert cost == plain
    fast = MixedSearch(WORKLOAD, [SLOW, FAST], replace(LINK, bytes_per_s=1e15, latency_s=0.0))
    assert list(fast.costs(layout, plan)) == [own[p][s] for s, p in enumerate(on)]


def test_the_reason_names_the_first_stage_that_is_too_large() -> None:
    tight = MixedSearch(WORKLOAD, [SLOW, FAST], LINK, memory_ratio=1e-3)
    layout = next(x for x in LAYOUTS if x.stages == (2, 2))
    trial = tight.trial(layout, (2, 2, 2, 2), 7.0)
    accelerator = [SLOW, FAST][layout.order[0]].accelerator
    limit = 1e-3 * accelerator.memory_bytes
    assert trial.reason == (
        f"stage 0 on {accelerator.name}: {trial.memory_bytes[0] / 1e9:.1f} of {limit / 1e9:.1f} GB"
    )
    assert (trial.step_s, trial.bound_s) == (None, 7.0)
    names = [[SLOW, FAST][p].name for p in SEARCH.part_of_stages(layout)]
    assert list(trial.parts) == names
    limits = [1e-3 * [SLOW, FAST][p].accelerator.memory_bytes for p in tight.part_of_stages(layout)]
    lack = sum(max(0.0, b - own) for b, own in zip(trial.memory_bytes, limits, strict=True))
    assert tight._order(trial) == (pytest.approx(lack), float("inf"))
    fits = SEARCH.trial(layout, (2, 2, 2, 2), 7.0)
    assert SEARCH._order(fits) == (0.0, fits.step_s)
    only = [(1e15, 0.0, 0.0, 0.0), (0.0, 0.0, 0.0, 1e15)]
    for number, memory in enumerate(only):
        own_limit = limits[3 * number] * 800
        assert SEARCH._order(replace(fits, memory_bytes=memory))[0] == 1e15 - own_limit


class Numbers(MixedSearch):
    """Steps by how far a division is from the best one."""

    def __init__(self, first: tuple[int, ...], best: tuple[int, ...], held: float = 1.0) -> None:
        super().__init__(WORKLOAD, [SLOW, FAST], LINK)
        self.first, self.goal, self.held = first, best, held
        self.tried: list[tuple[int, ...]] = []

    def first_division(self, layout: MixedLayout) -> tuple[int, ...]:
        return self.first

    def trial(self, layout: MixedLayout, layers: tuple[int, ...], bound_s: float) -> MixedTrial:
        self.tried.append(layers)
        far = sum(abs(a - b) for a, b in zip(layers, self.goal, strict=True))
        on = self.part_of_stages(layout)
        return MixedTrial(
            layout=layout,
            plan=replace(layout.plan, stage_layers=layers),
            parts=tuple(self.parts[p].name for p in on),
            bound_s=bound_s,
            memory_bytes=(self.held,) * len(layers),
            step_s=10.0 + far,
        )


PIPE = next(x for x in LAYOUTS if x.stages == (2, 2))


def test_blocks_are_moved_as_long_as_the_step_gets_shorter() -> None:
    search = Numbers((5, 1, 1, 1), (1, 2, 2, 3))
    found = search.best_division(PIPE, 1.0, float("inf"))
    assert found.plan.stage_layers == (1, 2, 2, 3)
    assert found.bound_s == 1.0
    # Rounds of all moves; the last one finds nothing.
    assert search.tried[:4] == [(5, 1, 1, 1), (4, 2, 1, 1), (4, 1, 2, 1), (4, 1, 1, 2)]
    assert len(search.tried) == 1 + 3 + 6 + 9 + 12 + 9


def test_what_is_far_from_the_best_or_too_large_is_left_as_it_is() -> None:
    # The first takes 18 s.
    for best_s, more in ((18.0 / 1.1 - 0.01, False), (18.0 / 1.1 + 0.01, True)):
        search = Numbers((5, 1, 1, 1), (1, 2, 2, 3))
        search.best_division(PIPE, 1.0, best_s)
        assert (len(search.tried) > 1) == more
    whole = sum(SEARCH.limit_bytes(p) for p in SEARCH.part_of_stages(PIPE))
    for held, more in ((whole / 4 * 1.001, False), (whole / 4 * 0.999, True)):
        search = Numbers((5, 1, 1, 1), (1, 2, 2, 3), held)
        search.best_division(PIPE, 1.0, float("inf"))
        assert (len(search.tried) > 1) == more
    assert [SEARCH.limit_bytes(n) for n in range(2)] == [
        0.8 * part.accelerator.memory_bytes for part in (SLOW, FAST)
    ]


def test_no_more_than_200_divisions_are_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("parplan.planners.mixed_clusters.MOVED", 10)
    search = Numbers((5, 1, 1, 1), (1, 2, 2, 3))
    search.best_division(PIPE, 1.0, float("inf"))
    assert len(search.tried) == 1 + 3 + 6


class Given(MixedSearch):
    """Layouts with bounds and steps that are given; a step of None does not fit."""

    def __init__(self, given: list[tuple[float, float | None]], stop: int = 99) -> None:
        super().__init__(WORKLOAD, [SLOW, FAST], LINK)
        self.given, self.stop = given, stop
        self.asked: list[tuple[float, float]] = []

    def layouts(self) -> Iterator[MixedLayout]:
        for number in range(len(self.given)):
            yield PIPE._replace(stages=(number, 0))

    def bound_s(self, layout: MixedLayout) -> float:
        return self.given[layout.stages[0]][0]

    def best_division(self, layout: MixedLayout, bound_s: float, best_s: float) -> MixedTrial:
        if len(self.asked) == self.stop:
            raise KeyboardInterrupt
        self.asked.append((bound_s, best_s))
        step_s = self.given[layout.stages[0]][1]
        reason = "" if step_s else "no"
        return MixedTrial(
            layout=layout,
            plan=layout.plan,
            parts=(),
            bound_s=bound_s,
            memory_bytes=(),
            step_s=step_s,
            reason=reason,
        )


def test_layouts_come_by_their_bounds_until_none_can_be_better() -> None:
    inf = float("inf")
    search = Given([(5.0, 6.0), (1.0, None), (3.0, 7.0), (6.0, 6.5), (2.0, 9.0), (6.5, 6.6)])
    said: list[tuple[str, int, int]] = []
    found = mixed_search(search, lambda *what: said.append(what))
    assert search.asked == [(1.0, inf), (2.0, inf), (3.0, 9.0), (5.0, 7.0)]
    assert said == [("layouts", n, 6) for n in (1, 2, 3, 4)]
    assert (found.num_layouts, found.stopped) == (6, "finished")
    assert found.best is not None
    assert found.best.step_s == 6.0
    # What was tried says nothing of other divisions of it: the bound of the first stays.
    assert found.least_s == 1.0
    proven = mixed_search(Given([(5.0, 5.0), (6.0, 6.5)]))
    assert (proven.least_s, len(proven.trials)) == (5.0, 1)
    stopped = mixed_search(Given([(2.0, 9.0), (3.0, 4.0), (8.0, 9.0)], stop=1))
    assert (stopped.stopped, stopped.least_s, len(stopped.trials)) == ("interrupted", 2.0, 1)
    nothing = mixed_search(Given([(2.0, None), (3.0, None)]))
    assert (nothing.best, nothing.least_s) == (None, 2.0)
    assert MixedReport((), 0, inf, "finished").best is None
    equal = mixed_search(Given([(6.0, 6.0), (6.0, 5.0)]))
    assert equal.best is not None
    assert equal.best.step_s == 6.0


def test_what_cannot_be_a_part() -> None:
    measured: Any = replace(FAST, measured=object())  # type: ignore[arg-type]
    with pytest.raises(ParplanError, match="a machine that was measured cannot be part"):
        MixedSearch(WORKLOAD, [SLOW, measured], LINK)
    work: Workload = replace(WORKLOAD, model=replace(WORKLOAD.model, num_layers=1))
    with pytest.raises(ParplanError) as caught:
        mixed_search(MixedSearch(work, [SLOW, FAST], LINK))
    assert str(caught.value) == (
        "global batch: 8 sequences and the layers of llama3-8b do not divide over "
        "2xa100-40gb (2) and 2xh100 (2) in any plan"
    )
