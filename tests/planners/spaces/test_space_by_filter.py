"""Spaces beside a filter over everything, and their moves beside a walk over all plans."""

import math
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from itertools import product
from random import Random
from typing import Any

import pytest

from parplan.errors import ParplanError
from parplan.hardware.machines.presets import cluster_preset
from parplan.planners.ap.log import (
    batches_vary,
    compile_time,
    cost_time,
    num_candidates,
    num_possible,
    selected_line,
)
from parplan.planners.spaces.checks import check_candidates, check_request
from parplan.planners.spaces.constraints import SIMULATED, Constraints, Range, constraints_of, text
from parplan.planners.spaces.layouts import Layout, Ordering, divisors
from parplan.planners.spaces.make import constraints_of_options, full_candidates, make_space
from parplan.planners.spaces.options import Options
from parplan.planners.spaces.space import Point, Space, point_of
from parplan.planners.spaces.variants import Choices, Variant, _near
from parplan.sim.models.model import model_preset
from parplan.sim.plan import Plan, zero_fields
from parplan.sim.schedules import CATALOGUE, schedule_kind, why_not
from parplan.sim.software.framework import NO_OVERHEAD
from parplan.sim.workload import Workload

SMALL = replace(model_preset("llama3-8b"), num_layers=6)
EXPERTS = replace(model_preset("mixtral-8x7b"), num_layers=4)
FEW = ("gpipe", "interleaved-1f1b", "zb-v", "looped-bfs")


def everything(workload: Workload, cluster: Any, allowed: Constraints) -> Iterator[Plan]:
    """All that could be asked for, in canonical order, filtered by what is said of each field."""
    devices, model = cluster.num_accelerators, workload.model
    up_to = range(1, devices + 1)
    for tensor, context, stages, expert in product(up_to, repeat=4):
        if devices % (tensor * context * stages) or stages > model.num_layers:
            continue
        data = devices // (tensor * context * stages)
        sizes = (model.num_kv_heads, model.ffn_size, model.hidden_size)
        fits = (
            (devices // cluster.num_nodes) % tensor == 0
            and all(size % tensor == 0 for size in sizes)
            and workload.seq_len % context == 0
            and workload.global_batch % data == 0
            and (data * context) % expert == 0
            and (model.moe.num_experts if model.moe else 1) % expert == 0
            and tensor in allowed.tensor_parallel
            and context in allowed.context_parallel
            and stages in allowed.num_stages
            and expert in allowed.expert_parallel
            and data in allowed.data_parallel
        )
        if not fits:
            continue
        replica = workload.global_batch // data
        for size in (s for s in range(1, replica + 1) if replica % s == 0):
            if size not in allowed.batch_per_device:
                continue
            for schedule, virtual in product(("1f1b", *allowed.schedule), range(1, 7)):
                if stages == 1 and (schedule, virtual) != ("1f1b", 1):
                    continue
                if stages > 1 and (
                    schedule not in allowed.schedule
                    or virtual not in allowed.virtual_stages
                    or replica // size not in allowed.num_micro_batches
                    or (virtual > 1 and model.num_layers % (stages * virtual))
                    or (virtual == 1 and len(schedule_kind(schedule).virtual_stages) > 1)
                    or why_not(schedule, stages, replica // size, virtual)
                ):
                    continue
                for again, zero, sequence in product(
                    allowed.recomputation, range(4), allowed.sequence_parallel
                ):
                    if data * context == 1 and zero > 0:
                        continue
                    if data * context > 1 and zero not in allowed.zero_stage:
                        continue
                    alone = tensor == 1 or workload.seq_len % tensor
                    if alone and sequence != allowed.sequence_parallel[0]:
                        continue
                    yield Plan(
                        num_stages=stages,
                        virtual_stages=virtual,
                        num_micro_batches=replica // size,
                        batch_per_device=size,
                        data_parallel=data,
                        tensor_parallel=tensor,
                        sequence_parallel=sequence and not alone,
                        context_parallel=context,
                        expert_parallel=expert,
                        recomputation=again,
                        schedule=schedule,
                        **zero_fields(zero),  # type: ignore[arg-type]
                    )


CASES: list[tuple[Workload, str, dict[str, object]]] = [
    (Workload(model=SMALL, seq_len=2046, global_batch=8, framework=NO_OVERHEAD), "8xh100", {}),
    (Workload(model=SMALL, seq_len=2048, global_batch=6, framework=NO_OVERHEAD), "16xh100", {}),
    (
        Workload(model=EXPERTS, seq_len=2048, global_batch=8, framework=NO_OVERHEAD),
        "8xh100",
        {"context_parallel": Range(), "expert_parallel": (1, 4), "batch_per_device": (1, 2)},
    ),
    (
        Workload(model=SMALL, seq_len=2048, global_batch=16, framework=NO_OVERHEAD),
        "8xh100",
        {
            "num_micro_batches": Range(min=4, max=8),
            "zero_stage": (1, 3),
            "data_parallel": Range(min=2),
            "num_stages": Range(min=1, max=3),
            "virtual_stages": (1, 3),
            "recomputation": ("full",),
            "sequence_parallel": (True,),
        },
    ),
]


@pytest.mark.parametrize(("workload", "cluster", "given"), CASES)
def test_a_space_is_what_a_filter_leaves(
    workload: Workload, cluster: str, given: dict[str, Any]
) -> None:
    allowed = Constraints(**{"schedule": FEW, **given})
    machine = cluster_preset(cluster)
    found = make_space(workload, machine, allowed)
    wanted = list(dict.fromkeys(everything(workload, machine, allowed)))
    assert sorted(found, key=str) == sorted(wanted, key=str)
    layouts = [point_of(plan).layout for plan in found]
    assert layouts == sorted(layouts)
    # The dimensions are the values that occur.
    values = [point_of(plan).values() for plan in found]
    assert set(found.dimensions) == set(values[0]) - set(Variant._fields)
    for name, own in found.dimensions.items():
        assert set(own) == {value[name] for value in values}
        assert len(set(own)) == len(own)
        if name in Layout._fields:
            assert list(own) == sorted(own)


MOVES = [
    make_space(
        Workload(model=SMALL, seq_len=2048, global_batch=12, framework=NO_OVERHEAD),
        cluster_preset("8xh100"),
        Constraints(schedule=FEW, zero_stage=(0, 1, 3), num_stages=(1, 2, 4)),
    ),
    make_space(
        Workload(model=EXPERTS, seq_len=2048, global_batch=16, framework=NO_OVERHEAD),
        cluster_preset("16xh100"),
        Constraints(schedule=("1f1b",), context_parallel=(1, 2), zero_stage=(0, 3)),
    ),
]


def next_degrees(space: Space, layout: Layout) -> set[tuple[int, ...]]:
    """The next value of one degree up and down, or of two with the same product."""
    every = {group.layout.degrees for group in space.groups}
    own, found = layout.degrees, set()
    for axes in ({0}, {1}, {2}, {3}, {4}, {0, 1}, {0, 2}, {1, 2}):
        near = [
            d
            for d in every
            if {i for i in range(5) if d[i] != own[i]} == axes
            and (len(axes) == 1 or math.prod(d[:4]) == math.prod(own[:4]))
        ]
        axis = min(axes)
        found |= {
            d
            for d in near
            if not any(own[axis] < e[axis] < d[axis] or d[axis] < e[axis] < own[axis] for e in near)
        }
    return found


@pytest.mark.parametrize("space", MOVES, ids=lambda s: s.workload.model.name)
def test_moves_are_to_the_next_value_of_one_dimension(space: Space) -> None:
    rng = Random(1)
    for plan in [space[0], space[-1], *(space.sample(rng) for _ in range(25))]:
        point = point_of(plan)
        near = [point_of(other) for other in space.neighbours(plan)]
        elsewhere = {p.layout.degrees for p in near if p.layout.degrees != point.layout.degrees}
        assert elsewhere == next_degrees(space, point.layout)
        sizes = sorted(
            g.layout.batch_per_device
            for g in space.groups
            if g.layout.degrees == point.layout.degrees
        )
        at = sizes.index(plan.batch_per_device)
        resized = {
            p.layout.batch_per_device
            for p in near
            if p.layout.degrees == point.layout.degrees and p.layout != point.layout
        }
        assert resized == {*sizes[max(0, at - 1) : at], *sizes[at + 1 : at + 2]}
        alike = [other for other in space if point_of(other).layout == point.layout]
        pairs = [(o, zip(point_of(o), point, strict=True)) for o in alike]
        within = {other for other, values in pairs if sum(a != b for a, b in values) == 1}
        assert {o for o in space.neighbours(plan) if point_of(o).layout == point.layout} == within


@pytest.mark.parametrize("space", MOVES, ids=lambda s: s.workload.model.name)
@pytest.mark.parametrize("keep", ["", "tensor_parallel", "num_stages", "ordering", "zero_stage"])
def test_the_nearest_is_near_by_degrees_then_size_then_the_rest(space: Space, keep: str) -> None:
    rng = Random(7)
    sizes: dict[str, list[int]] = {name: [1, 2, 3, 4, 8] for name in Layout._fields}
    everything = [(plan, point_of(plan)) for plan in space]
    for _ in range(25):
        wanted = Point(
            Layout(*(rng.choice(sizes[name]) for name in Layout._fields)),
            rng.choice([Ordering("gpipe", 1), Ordering("looped-bfs", 3), Ordering("zb-h1", 1)]),
            rng.choice(["none", "full"]),
            rng.choice([0, 1, 2, 3]),
            rng.choice([True, False]),
        )

        plans = [plan for plan, point in everything if point.layout == wanted.layout]
        if not plans:
            layout = min((g.layout for g in space.groups), key=partial(far, space, wanted, keep))
            plans = [plan for plan, point in everything if point.layout == layout]
        assert space.nearest(wanted, keep) == min(plans, key=partial(unlike, wanted))


def far(space: Space, wanted: Point, keep: str, layout: Layout) -> tuple[float, ...]:
    apart = [
        abs(math.log((a or 0.5) / (b or 0.5))) for a, b in zip(layout, wanted.layout, strict=True)
    ]
    first = 0.0
    if keep in Layout._fields:
        first = apart[Layout._fields.index(keep)]
    if keep == "ordering":
        group = next(g for g in space.groups if g.layout == layout)
        first = float(wanted.ordering not in group.orderings)
    return first, sum(apart[:-1]), apart[-1]


def unlike(wanted: Point, plan: Plan) -> tuple[float, ...]:
    own = point_of(plan)
    return (
        own.ordering != wanted.ordering,
        own.ordering.schedule != wanted.ordering.schedule,
        own.recomputation != wanted.recomputation,
        abs(own.zero_stage - wanted.zero_stage),
        own.sequence_parallel != wanted.sequence_parallel,
    )


def test_numbers_of_plans_from_the_end_and_in_slices() -> None:
    space = MOVES[0]
    plans = list(space)
    for number in (0, 1, len(plans) - 1, -1, -len(plans)):
        assert space[number] == plans[number]
    for number in (len(plans), -len(plans) - 1):
        with pytest.raises(IndexError):
            space[number]
    assert space[3:40:9] == plans[3:40:9]
    assert space[-3:] == plans[-3:]


def test_a_point_with_another_value_of_one_dimension() -> None:
    point = point_of(MOVES[0][5])
    assert point.having("num_stages", 4).layout == point.layout._replace(num_stages=4)
    assert point.having("zero_stage", 3) == point._replace(zero_stage=3)
    assert point.having("shard_group", 2).variant == point.variant._replace(shard_group=2)
    assert [len(point.values()), point.values()["zero_stage"]] == [10 + 7, point.zero_stage]


def test_what_is_possible_is_said_of_every_dimension() -> None:
    work, machine = MOVES[0].workload, cluster_preset("8xh100")

    def said(**given: Any) -> str:
        with pytest.raises(ParplanError) as caught:
            make_space(work, machine, Constraints(**given))
        return str(caught.value)

    assert said(num_stages=(5,)) == "num_stages: 5; possible on 8xh100: 1, 2, 4"
    assert said(batch_per_device=(7,)) == (
        "batch_per_device: 7; possible on 8xh100: 1, 2, 3, 4, 6, 12"
    )
    assert said(data_parallel=(3, 5)) == "data_parallel: 3, 5; possible on 8xh100: 1, 2, 4"
    both = said(num_stages=(2,), virtual_stages=(5,))
    assert both == (
        "no plan for 8xh100 fulfils all of: num_stages: 2; virtual_stages: 5; possible with "
        "num_stages: 1, or with virtual_stages: 1, 3"
    )
    none = Workload(
        model=replace(SMALL, num_layers=1, num_kv_heads=1),
        seq_len=3,
        global_batch=3,
        framework=NO_OVERHEAD,
    )
    with pytest.raises(ParplanError) as caught:
        make_space(none, machine)
    assert str(caught.value) == (
        f"global batch: 3 sequences do not divide over 8 accelerators in any plan of "
        f"{SMALL.name}; possible with a global batch of 8, or with 3 accelerators"
    )


def test_divisors_and_ranges() -> None:
    for number in (*range(1, 50), 144, 997):
        assert divisors(number) == [d for d in range(1, number + 1) if number % d == 0]
    ranges = (
        *(Range(), Range(min=2), Range(max=4), Range(min=1, max=4), Range(min=2, max=4)),
        Range(min=3, max=3),
    )
    kept = [[n for n in range(6) if n in r] for r in ranges]
    assert kept == [[*range(6)], [2, 3, 4, 5], [0, 1, 2, 3, 4], [1, 2, 3, 4], [2, 3, 4], [3]]
    assert list(map(str, ranges)) == [
        *("at least 0", "at least 2", "at most 4", "at most 4", "2 to 4"),
        "3 to 3",
    ]
    assert "2" not in Range()
    assert text((True, 2, "a")) == "true, 2, a"
    with pytest.raises(ParplanError, match="max: 1 is below min 2"):
        Range(min=2, max=1)


def test_constraints_of_a_table() -> None:
    found = constraints_of({"shard_group": 4, "recomputed_layers": {"min": 2}}, "x")
    assert (found.shard_group, found.recomputed_layers) == ((4,), Range(min=2))
    assert found.has_variants
    assert found.given() == {"shard_group": (4,), "recomputed_layers": Range(min=2)}
    assert not found.without("shard_group").without("recomputed_layers").has_variants
    assert not found.is_uneven
    for name in ("uneven_stages", "uneven_recomputation"):
        assert constraints_of({name: True}, "x").is_uneven
    for bad in ([], [1, "2"], 1.5, [True]):
        with pytest.raises(ParplanError, match=r"num_stages: (at least one|expected a whole)"):
            constraints_of({"num_stages": bad}, "x")
    for ratio in (0.0, 1.001, -1.0):
        with pytest.raises(ParplanError, match="memory_ratio: must be above 0"):
            Constraints(memory_ratio=ratio)
    assert Constraints(memory_ratio=1.0).memory_ratio == 1.0
    assert set(SIMULATED) == set(CATALOGUE)
    assert set(SIMULATED) - set(Constraints().schedule) == {"dualpipe", "zb-auto"}


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        ({}, lambda p: True),
        ({"pipeline_parallel": False}, lambda p: p.num_stages == 1),
        ({"num_stages": 2}, lambda p: p.num_stages <= 2),
        ({"num_micro_batches": 4}, lambda p: p.num_stages == 1 or p.num_micro_batches == 4),
        ({"activation_recomputation": True}, lambda p: p.recomputation != "none"),
        ({"activation_recomputation": False}, lambda p: p.recomputation == "none"),
        ({"distribute_parameter": True}, lambda p: p.data_parallel == 1 or p.zero_stage > 0),
        ({"distribute_parameter": False}, lambda p: p.zero_stage == 0),
    ],
)
def test_what_options_leave(options: dict[str, Any], kept: Any) -> None:
    work, machine = MOVES[0].workload, cluster_preset("8xh100")
    whole = full_candidates(work, machine, Options())
    assert {p.virtual_stages for p in whole} == {p.expert_parallel for p in whole} == {1}
    assert {p.zero_stage for p in whole} == {0, 1, 2, 3}
    assert {p.recomputation for p in whole} == {"none", "selective", "full"}
    assert all(p.sequence_parallel == (p.tensor_parallel > 1) for p in whole)
    assert full_candidates(work, machine, Options(**options)) == [p for p in whole if kept(p)]
    assert constraints_of_options(Options(memory_ratio_percent=50)).memory_ratio == 0.5


def test_the_values_that_have_an_effect() -> None:
    """Depths below the largest stage, groups between one rank and all, and the rest where it is."""
    wide = Constraints(
        recomputed_layers=Range(min=1, max=4),
        shard_group=Range(),
        overlap_gradient_reduction=(True, False),
        overlap_tensor_parallel=(False, True),
        offload_optimizer=(False, True),
        offload_activations=(False, True),
        gradient_dtype=("fp32",),
    )
    machine = cluster_preset("8xh100")
    choices = Choices(
        Workload(model=SMALL, seq_len=2048, global_batch=8, framework=NO_OVERHEAD), machine, wide
    )
    plain = Plan(data_parallel=8)
    both, one = (True, False), (False, True)
    host = one if machine.accelerator.host_bytes_per_s is not None else (False,)
    rest = (("fp32",), both, (False,), host, host)
    assert choices.of(plain) == ((None,), (None,), *rest)
    sharded = replace(plain, recomputation="full", **zero_fields(1))  # type: ignore[arg-type]
    assert choices.of(sharded) == ((None, 1, 2, 3, 4), (None, 2, 4), *rest)
    deep = Plan(num_stages=4, num_micro_batches=8, data_parallel=1, tensor_parallel=2)
    again = replace(deep, recomputation="selective")
    assert choices.of(again)[0] == (None, 1)
    assert choices.of(deep)[3:5] == ((True,), one)
    alone = replace(deep, tensor_parallel=1)
    assert choices.of(alone)[4] == (False,)
    assert choices.of(deep)[4] == one
    two = Plan(data_parallel=2, tensor_parallel=4)
    assert choices.of(two)[3:5] == (both, one)
    assert choices.of(replace(two, data_parallel=1))[3] == (True,)
    group = make_space(
        Workload(model=SMALL, seq_len=2048, global_batch=8, framework=NO_OVERHEAD),
        machine,
        Constraints(data_parallel=(8,), batch_per_device=(1,), zero_stage=(0, 1)),
    ).groups[0]
    counts = choices.counts(group)
    plans = [group.plan(n) for n in range(group.size)]
    assert counts.tolist() == [len(list(choices.variants(p))) for p in plans]
    for own in plans:
        every = list(choices.variants(own))
        assert [choices.variant(own, n) for n in range(len(every))] == every
        assert len(set(every)) == len(every)


WIDE = make_space(
    Workload(model=SMALL, seq_len=2048, global_batch=8, framework=NO_OVERHEAD),
    cluster_preset("8xh100"),
    Constraints(
        schedule=("1f1b",),
        num_stages=(1, 2),
        batch_per_device=(1, 2),
        recomputed_layers=Range(min=1, max=4),
        shard_group=(2, 4),
        zero_stage=(0, 1),
        overlap_gradient_reduction=(True, False),
        offload_optimizer=(False, True),
    ),
)


def test_variants_by_number() -> None:
    plans = list(WIDE)
    assert len(plans) == len(WIDE) == len(set(plans)) > WIDE.num_rows
    for number in (0, 1, len(plans) - 1, -1, -len(plans)):
        assert WIDE[number] == plans[number]
    for number in (len(plans), -len(plans) - 1, len(plans) + 5):
        with pytest.raises(IndexError):
            WIDE[number]
    assert WIDE[3:40:9] == plans[3:40:9]
    assert "plan" not in WIDE
    plain = Plan(data_parallel=8)
    assert plain in WIDE
    for other in (
        replace(plain, gradient_dtype="fp32"),
        replace(plain, recomputation="full", recomputed_layers=5),
        replace(plain, batch_per_device=4),
        replace(plain, schedule="gpipe"),
    ):
        assert other not in WIDE
    values = {name: {getattr(p, name) for p in plans} for name in Variant._fields}
    assert {name: set(WIDE.dimensions[name]) for name in Variant._fields} == values
    assert all(len(set(own)) == len(own) for own in WIDE.dimensions.values())
    begin = 0
    for row in range(WIDE.num_rows):
        own = list(WIDE.variants(row))
        assert plans[begin : begin + len(own)] == own
        assert math.prod(map(len, WIDE.box(row) or ())) == len(own)
        begin += len(own)


def test_the_variants_next_to_one() -> None:
    rng = Random(3)
    rows = {
        plan: list(WIDE.variants(row))
        for row, plan in enumerate(WIDE.row(r) for r in range(WIDE.num_rows))
    }
    plain_space = replace(WIDE.constraints, **PLAIN_ONLY)
    plain = make_space(WIDE.workload, WIDE.cluster, plain_space)
    for _ in range(60):
        plan = WIDE.sample(rng)
        own = replace(plan, **Variant()._asdict())
        alike = rows[own]
        ordered = sorted({p.recomputed_layers for p in alike}, key=lambda v: (v is None, v))
        groups = sorted({p.shard_group for p in alike}, key=lambda v: (v is None, v))
        wanted = set()
        for other in alike:
            differing = [n for n in Variant._fields if getattr(other, n) != getattr(plan, n)]
            if len(differing) != 1:
                continue
            (name,) = differing
            line = {"recomputed_layers": ordered, "shard_group": groups}.get(name)
            a, b = getattr(plan, name), getattr(other, name)
            if line is None or abs(line.index(a) - line.index(b)) == 1:
                wanted.add(other)
        near = WIDE.neighbours(plan)
        assert {p for p in near if replace(p, **Variant()._asdict()) == own} == wanted
        bases = {replace(p, **Variant()._asdict()) for p in near} - {own}
        assert bases == set(plain.neighbours(own))
    for wrong in (replace(plan, gradient_dtype="fp32"), replace(plan, batch_per_device=4)):
        with pytest.raises(ParplanError, match="not a plan of this space"):
            WIDE.neighbours(wrong)


PLAIN_ONLY: dict[str, Any] = {
    "recomputed_layers": (),
    "shard_group": (),
    "overlap_gradient_reduction": (True,),
    "offload_optimizer": (False,),
}


def test_the_number_next_to_one_that_is_not_allowed() -> None:
    assert _near((None, 2, 4, 8), 7) == 8
    assert _near((None, 8, 4, 2), 6) == 4
    assert _near((None, 4, 2), 3) == 2
    assert _near((None, 4), None) is None
    assert _near((False, 4), True) is False
    assert _near((None,), 3) is None
    assert _near((True, False), 1) is True


def test_requests_that_nothing_can_fulfil() -> None:
    work, machine = MOVES[0].workload, cluster_preset("8xh100")
    check_request(work, machine, Options(num_stages=6))
    with pytest.raises(ParplanError, match=r"num_stages: at most 6, the layers of .*; got 7"):
        check_request(work, machine, Options(num_stages=7))
    check_candidates(
        work, machine, [Plan(data_parallel=5), Plan(data_parallel=4, batch_per_device=3)]
    )
    odd = replace(work, global_batch=12)
    with pytest.raises(ParplanError, match=r"^global batch: 12 does not divide over 8 accel"):
        check_candidates(odd, machine, [Plan(data_parallel=8)])
    with pytest.raises(ParplanError, match=r"^the options leave no candidate in this space$"):
        check_candidates(replace(work, global_batch=16), machine, [Plan(data_parallel=4)])


def test_the_lines_of_a_log() -> None:
    assert num_candidates(7) == "The number of candidates is 7."
    assert num_possible(3) == "The number of possible candidates is 3."
    assert compile_time(1.2344) == "Elapsed Time to compile all candidates = 1234 [ms]"
    assert cost_time(0.0126) == ("Elapsed Time to compute cost for survived candidates = 13 [ms]")
    assert batches_vary([4, 8]) == "Various batch size detected : 4, 8"
    plain = Plan(data_parallel=8, recomputation="selective")
    assert selected_line(plain, "24.2.0") == (
        "No PP, No TP, recomputation : true, distribute_param : false"
    )
    assert selected_line(replace(plain, recomputation="none"), "24.2.0").split(", ")[2] == (
        "recomputation : false"
    )
    low = ", distribute_param : false, distribute_low_prec_param : false"
    assert selected_line(plain) == f"No PP, No TP, recomputation : 1{low}"
    assert selected_line(plain, "24.5") == f"No PP, No TP, recomputation : default(1){low}"
    assert selected_line(plain, "24.10").split(", ")[2] == "recomputation : default(1)"
    piped = Plan(
        num_stages=2,
        num_micro_batches=4,
        batch_per_device=3,
        tensor_parallel=4,
        recomputation="full",
        **zero_fields(1),  # type: ignore[arg-type]
    )
    assert selected_line(piped, "24.5") == (
        "num_stages : 2, num_micro_batches : 4, batch_per_device : 3, tensor_parallel : 4, "
        "recomputation : full(2), distribute_param : true, distribute_low_prec_param : false"
    )
