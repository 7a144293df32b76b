"""What makes a plan fit, and which plans are faster by how little they change."""

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from parplan.errors import ParplanError
from parplan.hardware.machines.presets import cluster_preset
from parplan.hardware.network.cluster import enlarged
from parplan.planners.costs.trial import Trial, judge
from parplan.planners.explain import ways_to_fit as module
from parplan.planners.explain.faster_neighbours import (
    Better,
    _candidates,
    _frontier,
    better_plans,
    changes_between,
)
from parplan.planners.explain.ways_to_fit import Way, _changes, _options, ways_to_fit
from parplan.sim.models.model import model_preset
from parplan.sim.plan import Plan, zero_fields
from parplan.sim.prediction.predict import compile_plan, predict
from parplan.sim.software.framework import NO_OVERHEAD, framework
from parplan.sim.workload import Workload

CLUSTER = cluster_preset("8xh100")
WORK = Workload(
    model=model_preset("llama3-8b"), seq_len=4096, global_batch=16, framework=framework("fused")
)


def with_host(there: bool) -> Any:
    accelerator = replace(CLUSTER.accelerator, host_bytes_per_s=25e9 if there else None)
    return replace(CLUSTER, accelerator=accelerator)


def names(plan: Plan, there: bool = True) -> list[str]:
    return [name for name, _ in _options(plan, with_host(there))]


FULL, SHARDED, SMALLER, HOST = (
    *("full recomputation", "ZeRO-3", "micro-batches of 1"),
    "the optimizer in the host's memory",
)
PLAIN = Plan(data_parallel=4, num_stages=2, num_micro_batches=3, batch_per_device=4)


def test_what_saves_memory_where_it_is_not_done_yet() -> None:
    assert names(PLAIN) == [FULL, SHARDED, SMALLER, HOST]
    assert names(PLAIN, there=False) == [FULL, SHARDED, SMALLER]
    # As a file has it, the word is another object than that of the source.
    word = "".join(["fu", "ll"])
    assert names(replace(PLAIN, recomputation=word))[0] == SHARDED  # type: ignore[arg-type]
    assert names(replace(PLAIN, recomputation="selective"))[0] == FULL
    for stage in (1, 2, 3):
        sharded = replace(PLAIN, **zero_fields(stage))  # type: ignore[arg-type]
        assert (SHARDED in names(sharded)) == (stage < 3)
    assert SHARDED not in names(replace(PLAIN, data_parallel=1))
    assert SMALLER not in names(replace(PLAIN, batch_per_device=1))
    assert HOST not in names(replace(PLAIN, offload_optimizer=True))
    changed = dict(_options(PLAIN, with_host(True)))
    assert changed[SMALLER] == {"batch_per_device": 1, "num_micro_batches": 12}
    assert changed[FULL] == {"recomputation": "full", "recomputed_layers": None}
    assert changed[SHARDED] == zero_fields(3)
    assert changed[HOST] == {"offload_optimizer": True}


def test_small_sets_of_changes_come_first() -> None:
    sets = list(_changes(PLAIN, with_host(False)))
    assert [said for said, _ in sets] == [
        *([FULL], [SHARDED], [SMALLER]),
        *([FULL, SHARDED], [FULL, SMALLER], [SHARDED, SMALLER], [FULL, SHARDED, SMALLER]),
    ]
    assert sets[4][1] == replace(
        PLAIN, recomputation="full", batch_per_device=1, num_micro_batches=12
    )
    assert sets[6][1].zero_stage == 3


def found(
    monkeypatch: pytest.MonkeyPatch,
    fits: Callable[[Plan, float, int], bool],
    memory: tuple[float, ...] = (2e12,),
    cluster: Any = CLUSTER,
) -> tuple[list[str], list[Plan]]:
    """The ways where `fits` says what does, of (plan, memory ratio, devices)."""

    def judged(work: Workload, where: Any, ratio: float, plan: Plan) -> Trial:
        assert work is WORK
        if plan.num_stages > 32:
            raise ParplanError("too many stages")
        good = fits(plan, ratio, where.num_accelerators)
        return Trial(plan=plan, reason="" if good else "no", memory_bytes=memory)

    monkeypatch.setattr(module, "judge", judged)
    monkeypatch.setattr(module, "_another_layout", lambda *given: None)
    ways = ways_to_fit(WORK, cluster, Trial(plan=PLAIN, reason="no", memory_bytes=memory), 0.8)
    assert all(way.trial.fits for way in ways)
    return [way.change for way in ways], [way.trial.plan for way in ways]


def test_the_smallest_changes_that_do(monkeypatch: pytest.MonkeyPatch) -> None:
    none, _ = found(monkeypatch, lambda p, ratio, devices: False)
    assert none == []
    said, plans = found(
        monkeypatch,
        lambda p, ratio, devices: (
            devices == 8 and (p.recomputation == "full" or p.zero_stage + p.num_micro_batches > 12)
        ),
    )
    assert said == [FULL, f"{SHARDED} and {SMALLER}"]
    assert [p.recomputation for p in plans] == ["full", "none"]


def test_more_of_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    size = CLUSTER.accelerator.memory_bytes
    for share, said in ((0.8, []), (0.81, ["81% of the memory"]), (1.0, ["100% of the memory"])):
        ways, plans = found(
            monkeypatch, lambda p, ratio, devices: ratio > 0.8, (0.1 * size, share * size)
        )
        assert ways == said
        assert plans == [PLAIN] * len(said)
    assert found(monkeypatch, lambda p, ratio, n: ratio > 0.8, (1.01 * size,))[0] == []
    assert found(monkeypatch, lambda p, ratio, n: ratio > 0.8, ())[0] == []


def test_the_smallest_larger_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 16 sequences, four to each replica: up to 4 more copies, the rest goes to the stages."""
    said, (plan,) = found(monkeypatch, lambda p, ratio, devices: devices == 32)
    assert said == ["32 devices with full recomputation and ZeRO-3"]
    # With four times as many: one more factor for the stages is tried first.
    assert (plan.num_stages, plan.data_parallel) == (2, 16)
    assert (plan.num_micro_batches, plan.batch_per_device) == (1, 1)
    assert (plan.recomputation, plan.zero_stage, plan.stage_layers) == ("full", 3, None)
    said, (plan,) = found(monkeypatch, lambda p, ratio, n: p.num_stages == 16)
    assert said == ["64 devices with full recomputation and ZeRO-3"]
    assert (plan.num_stages, plan.data_parallel, plan.num_micro_batches) == (16, 4, 4)
    # More than 32 stages cannot be laid out here, and more than 16 copies have no sequence.
    seen: list[int] = []

    def note(plan: Plan, ratio: float, devices: int) -> bool:
        seen.append(devices)
        return False

    assert found(monkeypatch, note)[0] == []
    assert set(seen) - {8} == {16, 32, 64, 128, 256, 512}
    assert module.MOST == 1024


def test_one_replica_alone_has_nothing_to_shard(monkeypatch: pytest.MonkeyPatch) -> None:
    alone = replace(PLAIN, data_parallel=1, num_stages=8)

    def judged(work: Workload, where: Any, ratio: float, plan: Plan) -> Trial:
        good = where.num_accelerators == 16 and plan.num_stages == 16
        return Trial(plan=plan, reason="" if good else "no", memory_bytes=(2e12,))

    monkeypatch.setattr(module, "judge", judged)
    monkeypatch.setattr(module, "_another_layout", lambda *given: None)
    (way,) = ways_to_fit(WORK, CLUSTER, Trial(plan=alone, memory_bytes=(2e12,)), 0.8)
    assert way.change == "16 devices with full recomputation"
    assert way.trial.plan.zero_stage == 0
    assert way.trial.plan.num_micro_batches == 16


def the_way(monkeypatch: pytest.MonkeyPatch, plan: Plan, good: Callable[[Any, Plan], bool]) -> Way:
    """The only way, where plans on a cluster are `good` or not, and no other layout is tried."""

    def judged(work: Workload, where: Any, ratio: float, plan: Plan) -> Trial:
        return Trial(plan=plan, reason="" if good(where, plan) else "no", memory_bytes=(2e12,))

    monkeypatch.setattr(module, "judge", judged)
    monkeypatch.setattr(module, "_another_layout", lambda *given: None)
    (way,) = ways_to_fit(WORK, CLUSTER, Trial(plan=plan, memory_bytes=(2e12,)), 0.8)
    return way


def test_what_stays_in_the_host_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = replace(PLAIN, offload_optimizer=True, offload_activations=True)
    way = the_way(monkeypatch, plan, lambda where, _: where.num_accelerators == 16)
    there = "the optimizer in the host's memory and activations in the host's memory"
    assert way.change == f"16 devices with full recomputation and ZeRO-3 and {there}"


def test_two_replicas_are_sharded(monkeypatch: pytest.MonkeyPatch) -> None:
    alone = replace(PLAIN, data_parallel=1, num_stages=8)
    way = the_way(monkeypatch, alone, lambda _, plan: plan.data_parallel == 2)
    assert way.change == "16 devices with full recomputation and ZeRO-3"
    assert (way.trial.plan.num_stages, way.trial.plan.zero_stage) == (8, 3)


@pytest.mark.parametrize(
    ("model", "cluster", "devices"),
    [
        ("mixtral-8x7b", "2xh100", 16),
        ("llama3-405b", "8xh100", 128),
    ],
)
def test_another_layout_fits_where_more_of_the_same_does_not(
    model: str, cluster: str, devices: int
) -> None:
    """Of 4 sequences there are no more copies, and chunks divide no further."""
    work = Workload(model=model_preset(model), seq_len=2048, global_batch=devices)
    own = cluster_preset(cluster)
    closest = judge(
        work,
        own,
        0.8,
        Plan(
            num_stages=own.num_accelerators,
            num_micro_batches=devices,
            virtual_stages=2,
            schedule="interleaved-1f1b",
        ),
    )
    *_, larger = ways_to_fit(work, own, closest, 0.8)
    assert larger.change == f"{devices} devices with full recomputation and ZeRO-3"
    times = devices // own.num_accelerators
    assert judge(work, enlarged(own, times), 0.8, larger.trial.plan) == larger.trial


def test_ways_of_a_real_plan_fit() -> None:
    large = Workload(
        model=model_preset("llama2-70b"), seq_len=4096, global_batch=32, framework=NO_OVERHEAD
    )
    plan = Plan(tensor_parallel=8, sequence_parallel=True, num_micro_batches=8, batch_per_device=4)
    trial = judge(large, CLUSTER, 0.8, plan)
    assert not trial.fits
    ways = ways_to_fit(large, CLUSTER, trial, 0.8)
    larger = ways[-1]
    devices = int(larger.change.split()[0])
    for way in ways[:-1]:
        assert judge(large, CLUSTER, 0.8, way.trial.plan) == way.trial
    assert judge(large, enlarged(CLUSTER, devices // 8), 0.8, larger.trial.plan) == larger.trial


def test_a_cluster_of_more_nodes() -> None:
    two = cluster_preset("16xh100")
    four = enlarged(two, 2)
    assert (four.num_nodes, four.num_accelerators) == (2 * two.num_nodes, 32)
    assert four.name == "2 x 16xh100"
    assert [t.size for t in four.tiers[:-1]] == [t.size for t in two.tiers[:-1]]
    assert four.tiers[-1].size == 2 * two.tiers[-1].size
    assert four.tiers[-1].link == two.tiers[-1].link


def test_only_the_outermost_links_join_more_nodes() -> None:
    two = cluster_preset("16xh100")
    rack = replace(two.tiers[-1], name="rack")
    hall = replace(two.tiers[-1], name="hall", size=32)
    three = replace(two, tiers=(two.tiers[0], rack, hall), num_nodes=4)
    assert [t.size for t in enlarged(three, 3).tiers] == [8, 16, 96]
    assert enlarged(three, 3).tiers[:2] == three.tiers[:2]
    one = cluster_preset("8xh100")
    assert [t.size for t in enlarged(one, 2).tiers] == [16]


PIPED = Plan(num_stages=2, data_parallel=2, tensor_parallel=2, num_micro_batches=4)


@pytest.mark.parametrize(
    ("other", "changes"),
    [
        ({}, []),
        ({"recomputation": "full"}, [("recomputation", "none", "full")]),
        ({"batch_per_device": 2, "num_micro_batches": 2}, [("batch_per_device", 1, 2)]),
        # The replicas follow from the other degrees; alone they count.
        ({"num_stages": 4, "data_parallel": 1}, [("num_stages", 2, 4)]),
        (
            {"tensor_parallel": 4, "num_stages": 1, "sequence_parallel": True},
            [
                ("tensor_parallel", 2, 4),
                ("num_stages", 2, 1),
                ("sequence_parallel", False, True),
            ],
        ),
        ({"data_parallel": 4}, [("data_parallel", 2, 4)]),
        ({"context_parallel": 2, "data_parallel": 1}, [("context_parallel", 1, 2)]),
        ({"expert_parallel": 2}, [("expert_parallel", 1, 2)]),
        # Sequence parallelism comes with tensor parallelism.
        (
            {"tensor_parallel": 1, "data_parallel": 4, "sequence_parallel": True},
            [("tensor_parallel", 2, 1)],
        ),
        ({"schedule": "gpipe"}, [("schedule", "1f1b", "gpipe")]),
        (
            {"schedule": "interleaved-1f1b", "virtual_stages": 2},
            [("schedule", "1f1b", "interleaved-1f1b x 2")],
        ),
        ({"num_stages": 1, "schedule": "gpipe", "data_parallel": 4}, [("num_stages", 2, 1)]),
        (zero_fields(2), [("zero_stage", 0, 2)]),
    ],
)
def test_what_counts_as_a_change(
    other: dict[str, Any], changes: list[tuple[str, Any, Any]]
) -> None:
    two = SimpleNamespace(
        **{
            name: other.get(name, getattr(PIPED, name))
            for name in (*module_dimensions(), "schedule", "virtual_stages")
        }
    )
    if "distribute_param" in other:
        two.zero_stage = 2
    assert list(changes_between(PIPED, two)) == changes  # type: ignore[arg-type]
    back = [(name, after, before) for name, before, after in changes]
    assert list(changes_between(two, PIPED)) == back  # type: ignore[arg-type]


def module_dimensions() -> tuple[str, ...]:
    return (
        *("tensor_parallel", "num_stages", "data_parallel", "context_parallel"),
        *("expert_parallel", "batch_per_device", "recomputation", "zero_stage"),
        "sequence_parallel",
    )


def timed(step_s: float | None, **fields: Any) -> Trial:
    return Trial(plan=replace(PIPED, **fields), step_s=step_s, reason="" if step_s else "no")


def test_more_changes_have_to_be_faster() -> None:
    one = timed(9.0, recomputation="full")
    other = timed(8.5, recomputation="selective")
    two = timed(8.4999, recomputation="full", schedule="gpipe")
    three = timed(7.0, recomputation="full", schedule="gpipe", data_parallel=4)
    trials = [timed(10.0), one, other, timed(9.0, expert_parallel=2), two, three, timed(None)]
    found = _frontier(PIPED, 10.0, trials)
    assert [b.trial for b in found] == [other, three]
    assert found[0].words == "recomputation none -> selective"
    assert found[1].words == (
        "data_parallel 2 -> 4, recomputation none -> full, schedule 1f1b -> gpipe"
    )
    # A step that is shorter by less than a thousandth is not faster, nor is the plan itself.
    assert _frontier(PIPED, 10.0, [timed(9.9901, recomputation="full"), timed(1.0)]) == ()
    assert len(_frontier(PIPED, 10.0, [timed(9.9899, recomputation="full")])) == 1
    assert _frontier(PIPED, 10.0, [one, timed(9.0, expert_parallel=2)])[0].trial == one
    assert isinstance(found[0], Better)


def test_candidates_keep_what_a_space_does_not_have() -> None:
    plan = Plan(
        num_stages=2,
        data_parallel=4,
        num_micro_batches=4,
        gradient_dtype="fp32",
        stage_layers=(15, 17),
        shard_group=2,
        schedule="gpipe",
        **zero_fields(1),  # type: ignore[arg-type]
    )
    found = list(_candidates(WORK, CLUSTER, plan))
    assert all(c.gradient_dtype == "fp32" for c in found)
    assert {c.schedule for c in found} == {"1f1b", "interleaved-1f1b", "gpipe"}
    assert {c.virtual_stages for c in found} == {1, 2, 4}
    assert {c.context_parallel for c in found} == {1}
    # Where stages are as many the split stays, where replicas are as many the groups do; a split
    # goes before a group that is not possible.
    assert {c.stage_layers for c in found if c.total_stages == 2 and c.shard_group} == {(15, 17)}
    assert {c.stage_layers for c in found if c.total_stages != 2} == {None}
    assert {c.shard_group for c in found if c.zero_stage > 0 and c.replicas > 2} == {2}
    assert {c.sequence_parallel for c in found if c.tensor_parallel > 1} == {True, False}
    own = replace(plan, **zero_fields(3))  # type: ignore[arg-type]
    step_s = predict(compile_plan(WORK, CLUSTER, own)).step_s
    better, tried = better_plans(WORK, CLUSTER, own, step_s)
    assert tried == len(set(_candidates(WORK, CLUSTER, own)))
    for each in better:
        assert (each.trial.step_s or 0.0) < (1 - 0.001) * step_s
        step_s = each.trial.step_s or 0.0
