"""What an evaluator keeps of a search, number by number, and what it is made of."""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from parplan.errors import ParplanError
from parplan.planners.bounds.stage_memory import StageSize, StageTables, held_bytes
from parplan.planners.costs import plan_costs
from parplan.planners.costs.cost_cache import SharedCosts
from parplan.planners.costs.goal import LEAST_MEMORY
from parplan.planners.costs.trial import Trial, verdict
from parplan.planners.search import exhaustive as exhaustive_module
from parplan.planners.search.budget import Budget, Stopped, budget_of
from parplan.planners.search.evaluator import IMPOSSIBLE, Evaluator
from parplan.planners.search.exhaustive import exhaustive
from parplan.planners.search.report import Report
from parplan.planners.search.run import run_planner
from parplan.planners.spaces.constraints import Constraints
from parplan.planners.spaces.make import make_space
from parplan.planners.spaces.space import Space
from parplan.sim.cost_model.stage_costs import model_costs, stage_costs
from parplan.sim.memory.peak import RankMemory, rank_memory, stage_needs
from parplan.sim.models.model import model_preset
from parplan.sim.plan import Plan, zero_fields
from parplan.sim.prediction.predict import compile_plan, schedule_key, scheduled
from tests.planners.search.test_evaluator import CLUSTER, PLANS, REMOTE, SPACE, WORKLOAD


class Clock:
    """A second goes by at every look."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 1.0
        return self.now


def ask(space: Space | None = SPACE, **given: Any) -> Evaluator:
    return Evaluator(WORKLOAD, CLUSTER, space=space, **given)


FITS = [t.plan for t in ask().many(PLANS) if t.fits]
TOO_LARGE = [p for p in PLANS if p not in FITS]


def test_looking_takes_no_evaluation() -> None:
    one = ask(clock=Clock())
    assert one.fits(FITS[0])
    assert not one.fits(TOO_LARGE[0])
    memory = compile_plan(WORKLOAD, CLUSTER, FITS[0]).memory
    assert one.peak_bytes(FITS[0]) == max(rank.total_bytes for rank in memory)
    assert one.peak_bytes(REMOTE) == IMPOSSIBLE
    assert (one.num_asked, one.trials, one.num_bounds) == (0, (), 0)
    # Three verdicts, each between two looks at the clock.
    assert one.compile_s == 3.0
    assert one.cost_s == 0.0
    one.many(FITS[:1])
    assert (one.compile_s, one.cost_s) == (3.0, 1.0)
    bounds = one.bounds([FITS[0], TOO_LARGE[0], FITS[0], FITS[1]])
    assert one.num_bounds == 3
    assert one.bounds(FITS[:2]) == [bounds[0], bounds[3]]
    assert one.num_bounds == 3
    assert one.memory_limit_bytes == 0.8 * CLUSTER.accelerator.memory_bytes
    half = ask(memory_ratio=0.5)
    assert half.memory_limit_bytes == 0.5 * CLUSTER.accelerator.memory_bytes
    for wrong in ("plan", None):
        for method in (one, one.fits, one.peak_bytes):
            with pytest.raises(ParplanError, match="evaluate: expected a Plan, got"):
                method(wrong)  # type: ignore[arg-type]


def test_what_is_asked_counts_and_is_remembered() -> None:
    watched: list[int] = []
    one = ask(watch=lambda e: watched.append(e.num_asked))
    trials = one.many([*FITS[:5], FITS[2], TOO_LARGE[0]])
    assert (one.num_asked, len(one.trials), watched) == (7, 6, [7])
    assert trials[5] == trials[2]
    assert one(FITS[0]) == trials[0]
    assert watched == [7, 8]
    assert [t.plan for t in one.trials] == [*FITS[:5], TOO_LARGE[0]]
    assert [t.plan for t in one.trials_since(4)] == [FITS[4], TOO_LARGE[0]]
    assert [t.plan for t in one.trials_since(3)] == [*FITS[3:5], TOO_LARGE[0]]
    assert list(one.trials_since(6)) == []
    assert len(list(one.trials_since(0))) == 6
    assert one.many([]) == []
    best = IMPOSSIBLE
    expected = []
    for number, trial in enumerate(trials):
        if trial.step_s is not None and trial.step_s < best:
            best = trial.step_s
            expected.append((number + 1, best, best))
    assert [(i.evaluations, i.step_s, i.key) for i in one.improvements] == expected
    assert all(one.energy(t) == one.goal.energy(t) for t in trials)


def test_a_longer_step_may_be_better_by_another_goal() -> None:
    trials = ask().many(FITS)
    by_step = sorted(trials, key=lambda t: t.step_s or 0.0)
    small = min(by_step[1:], key=lambda t: max(t.memory_bytes))
    one = ask(goal=LEAST_MEMORY)
    one.many([by_step[0].plan, small.plan])
    assert [i.key for i in one.improvements] == [
        max(by_step[0].memory_bytes),
        max(small.memory_bytes),
    ]
    assert one.improvements[1].step_s == small.step_s


def test_budgets() -> None:
    one = ask(budget=Budget(evaluations=4))
    assert (one.evaluations_left, one.share_used) == (4, 0.0)
    one.many(FITS[:3])
    assert (one.evaluations_left, one.share_used) == (1, 0.75)
    with pytest.raises(Stopped):
        one.many(FITS[3:6])
    assert (one.num_asked, one.evaluations_left, one.share_used) == (4, 0, 1.0)
    assert FITS[3] in [t.plan for t in one.trials]
    for late in (lambda: one.fits(FITS[0]), lambda: one(FITS[0]), lambda: one.peak_bytes(FITS[0])):
        with pytest.raises(Stopped):
            late()
    free = ask(clock=Clock())
    assert (free.evaluations_left, free.share_used) == (None, 0.0)
    timed = ask(clock=Clock(), budget=Budget(seconds=10.0))
    assert timed.share_used == 0.1
    assert timed.seconds == 2.0
    while timed.seconds < 9:
        timed.fits(FITS[0])
    assert timed.seconds >= 10
    with pytest.raises(Stopped):
        timed(FITS[0])
    assert timed.share_used == 1.0
    both = ask(clock=Clock(), budget=Budget(seconds=1e6, evaluations=2))
    both(FITS[0])
    assert both.share_used == 0.5
    assert budget_of("500") == Budget(evaluations=500)
    assert budget_of("2.5s") == Budget(seconds=2.5)
    assert Budget(evaluations=1, seconds=0.1)
    for text in ("", "s", "5m", "0", "0s", "-1", "1.5", "nans"):
        with pytest.raises(ParplanError, match=r"^budget: "):
            budget_of(text)


def test_what_takes_time_stops_at_the_end_of_the_time() -> None:
    late = ask(clock=Clock(), budget=Budget(seconds=3.0))
    while late.seconds < 3:
        pass
    methods = (
        *(late.space_bounds, late.space_memory, late.space_lower_bounds, late.leanest),
        *(lambda: late.bounds(FITS[:1]), lambda: late.rule_out_alike(FITS[0])),
    )
    for method in methods:
        with pytest.raises(Stopped):
            method()
    assert late.num_bounds == 0
    # What is at hand takes none.
    done = ask(budget=Budget(evaluations=1))
    bounds = done.space_bounds()
    many = done.bounds(FITS[:1])
    done(FITS[0])
    assert done.space_bounds() is bounds
    assert done.bounds(FITS[:1]) == many
    with pytest.raises(Stopped):
        done.space_memory()
    with pytest.raises(Stopped):
        done.rule_out_alike(FITS[0])
    assert done.least_key() <= done.improvements[-1].key


def test_what_is_known_to_be_no_better() -> None:
    one = ask()
    (trial,) = one.many(FITS[:1])
    key = trial.step_s or 0.0
    assert one.ruled_out(FITS[0], key)
    assert one.ruled_out(FITS[0], key * 0.9)
    assert not one.ruled_out(FITS[0], key * 1.1)
    assert one.ruled_out(REMOTE, 0.0)
    assert not one.ruled_out(TOO_LARGE[0], 1e-9)
    one.fits(TOO_LARGE[0])
    assert one.ruled_out(TOO_LARGE[0], IMPOSSIBLE)
    (bound,) = one.bounds([FITS[1]])
    assert one.ruled_out(FITS[1], bound)
    assert not one.ruled_out(FITS[1], bound * 1.01)
    small = ask(goal=LEAST_MEMORY)
    (bound,) = small.bounds([FITS[1]])
    assert not small.ruled_out(FITS[1], bound)


def test_bounds_of_a_space_are_counted_once_and_sharpened() -> None:
    one = ask()
    bounds, memory = one.space_bounds(), one.space_memory()
    assert one.num_bounds == len(PLANS)
    assert one.space_bounds() is bounds
    assert one.num_bounds == len(PLANS)
    assert one.space_lower_bounds() is bounds
    assert ask(goal=LEAST_MEMORY).space_lower_bounds().tolist() == memory.tolist()
    assert ((memory < IMPOSSIBLE) == (bounds < IMPOSSIBLE)).all()
    for plan in PLANS:
        one.rule_out_alike(plan)
    fits = np.array([plan in FITS for plan in PLANS])
    assert ((bounds < IMPOSSIBLE) == fits).all()
    assert ((one.space_memory() < IMPOSSIBLE) == fits).all()
    assert PLANS[int(np.argmin(memory_of_all()))] == one.leanest()
    assert one.uneven_lower_bounds().tolist() == bounds.tolist()
    unwanted = Space(
        workload=WORKLOAD,
        cluster=CLUSTER,
        constraints=SPACE.constraints,
        groups=SPACE.groups,
        why_not=lambda plan: "odd" if plan.num_stages == 1 else "",
    )
    other = ask(space=unwanted).space_bounds()
    for plan, lower_bound in zip(PLANS, other, strict=True):
        assert lower_bound == IMPOSSIBLE or plan.num_stages > 1
    assert ask(space=unwanted)(next(p for p in PLANS if p.num_stages == 1)).reason == "odd"
    none = ask(space=None)
    for method in (none.space_bounds, none.space_memory, none.leanest, none.uneven_lower_bounds):
        with pytest.raises(ParplanError, match="made without a Space"):
            method()
    with pytest.raises(
        ParplanError, match="box_lower_bounds: the evaluator was made without a Space"
    ):
        none.box_lower_bounds(0, [])
    assert not none.proves(0.0)
    assert none.least_key() == 0.0


def memory_of_all() -> list[float]:
    table = ask()
    table.space_bounds()
    assert table._table is not None
    return table._table.memory_bytes().tolist()


def test_what_is_proven_and_what_is_left() -> None:
    one = ask()
    bounds = one.space_bounds().tolist()
    order = sorted(range(len(PLANS)), key=bounds.__getitem__)
    assert one.least_key() == min(bounds)
    assert not one.proves(IMPOSSIBLE)
    assert one.proves(min(bounds))
    best = IMPOSSIBLE
    for number in order:
        one.rule_out_alike(PLANS[number])
    for number in order:
        tried = {t.plan for t in one.trials}
        open_s = [
            b for b, p in zip(one.space_bounds().tolist(), PLANS, strict=True) if p not in tried
        ]
        least = min([best, *open_s])
        assert one.least_key() == least
        assert one.proves(best) == (least == best)
        if one.proves(best) and best < IMPOSSIBLE:
            break
        if one.fits(PLANS[number]):
            best = min(best, one(PLANS[number]).step_s or 0.0)
    every = ask().many(FITS)
    assert best == min(t.step_s or 0.0 for t in every)
    walked = ask()
    walked.many(PLANS)
    assert walked.proves(best)
    assert not walked.proves(best * 1.01)


def test_uneven_spaces_are_never_proven() -> None:
    few = replace(SPACE.constraints, uneven_stages=True, num_stages=(2, 4), schedule=("1f1b",))
    space = make_space(WORKLOAD, CLUSTER, few)
    one = ask(space=space)
    lower_bounds = one.uneven_lower_bounds()
    assert not one.proves(0.0)
    assert one.least_key() == lower_bounds.min() > 0
    found = run_planner("branch-and-bound", space, with_gap=True)
    best_s = (found.best.step_s or 0.0) if found.best else 0.0
    assert found.gap == 1 - min(lower_bounds.min(), best_s) / best_s
    memory = ask(space=space, goal=LEAST_MEMORY)
    assert memory.uneven_lower_bounds().tolist() == [0.0] * len(space)


def test_a_verdict_in_words() -> None:
    def rank(total: float) -> RankMemory:
        return RankMemory(
            parameter_bytes=total,
            gradient_bytes=1e9,
            optimizer_bytes=2e9,
            activation_bytes=3e9,
        )

    limit = 0.8 * CLUSTER.accelerator.memory_bytes
    fits = verdict(Plan(), [rank(1e9), rank(limit - 6e9)], CLUSTER.accelerator.memory_bytes, 0.8)
    assert (fits.reason, fits.fits, fits.memory_bytes) == ("", True, (7e9, limit))
    large = [rank(1e9), rank(34e9), rank(2e9)]
    said = (
        f": 40.0 of {limit / 1e9:.1f} GB (80% of the device): "
        "parameters 34.0, gradients 1.0, optimizer 2.0, activations 3.0 GB"
    )
    assert verdict(Plan(), large, CLUSTER.accelerator.memory_bytes, 0.8).reason == f"stage 1{said}"
    chunks = Plan(num_stages=2, num_micro_batches=4, schedule="zb-v", virtual_stages=2)
    assert verdict(chunks, large, CLUSTER.accelerator.memory_bytes, 0.8).reason == f"rank 1{said}"


def test_a_report_counts_and_finds_the_closest() -> None:
    def trial(step_s: float | None, *memory: float) -> Trial:
        return Trial(plan=Plan(), reason="" if step_s else "no", memory_bytes=memory, step_s=step_s)

    some = (trial(2.0, 1.0), trial(None, 5.0, 9.0), trial(None, 8.0), trial(None), trial(1.0, 7.0))
    report = Report(trials=some, compile_s=0.0, cost_s=0.0)
    assert (report.num_possible, report.best, report.closest) == (2, some[4], some[2])
    assert Report(trials=some[3:4], compile_s=0.0, cost_s=0.0).closest is None


def test_an_exhaustive_search_tells_what_it_does() -> None:
    plans = [*FITS[:6], *TOO_LARGE[:3]]
    said: list[tuple[str, int, int]] = []
    kept: list[Trial] = []
    report = exhaustive(
        *(WORKLOAD, CLUSTER, plans), progress=lambda *w: said.append(w), keep=kept.append
    )
    assert said == [*(("compile", n, 9) for n in range(1, 10))] + [
        ("simulate", n, 6) for n in range(1, 7)
    ]
    assert sorted(kept, key=str) == sorted(report.trials, key=str)
    assert [t.plan for t in report.trials] == plans
    known = [report.trials[0], report.trials[-1]]
    again: list[tuple[str, int, int]] = []
    other = exhaustive(
        *(WORKLOAD, CLUSTER, plans), known=known, progress=lambda *w: again.append(w)
    )
    assert other.trials == report.trials
    assert (again[0], again[-1]) == (("compile", 1, 7), ("simulate", 5, 5))


def test_the_times_of_a_search_are_those_of_its_two_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = iter((1.0, 4.0, 9.0, 16.0))
    monkeypatch.setattr(exhaustive_module.time, "perf_counter", lambda: next(looks))
    report = exhaustive(WORKLOAD, CLUSTER, FITS[:1])
    assert (report.compile_s, report.cost_s, report.stopped) == (3.0, 5.0, "finished")


def test_lists_are_kept_up_to_a_number_of_actions(monkeypatch: pytest.MonkeyPatch) -> None:
    piped = list({schedule_key(p): p for p in PLANS if p.num_stages > 1}.values())[:5]
    shared = SharedCosts(WORKLOAD, CLUSTER)
    tapes = [shared.lists(plan).tape for plan in piped]
    assert [shared.lists(plan).tape for plan in piped] == tapes
    assert all(a is b for a, b in zip(tapes, [shared.lists(p).tape for p in piped], strict=True))
    assert shared._kept == sum(map(len, tapes))
    monkeypatch.setattr(plan_costs, "KEPT_ACTIONS", len(tapes[3]) + len(tapes[4]))
    few = SharedCosts(WORKLOAD, CLUSTER)
    made = [few.lists(plan).tape for plan in piped]
    assert few._kept <= len(tapes[3]) + len(tapes[4])
    assert few.lists(piped[4]).tape is made[4]
    assert few.lists(piped[0]).tape is not made[0]
    for plan in piped:
        assert few.moments(plan) is few.moments(plan)
        own = scheduled(plan).moments
        assert all(
            np.array_equal(a.counts, b.counts) for a, b in zip(own, few.moments(plan), strict=True)
        )
    monkeypatch.setattr(plan_costs, "KEPT_ACTIONS", 1)
    none = SharedCosts(WORKLOAD, CLUSTER)
    assert none.lists(piped[0]).tape is none.lists(piped[0]).tape


VARIED = Plan(
    num_stages=4,
    data_parallel=2,
    num_micro_batches=8,
    recomputation="full",
    **zero_fields(1),  # type: ignore[arg-type]
)


def variants() -> Iterator[Plan]:
    yield VARIED
    yield replace(VARIED, recomputed_layers=3)
    yield replace(VARIED, stage_layers=(7, 8, 8, 9))
    yield replace(VARIED, recomputed_of_stages=(8, 2, 0, 1))
    yield replace(VARIED, overlap_gradient_reduction=False)
    yield replace(VARIED, **zero_fields(3))  # type: ignore[arg-type]
    yield replace(VARIED, schedule="zb-h1")
    yield replace(VARIED, schedule="interleaved-1f1b", virtual_stages=2)
    yield replace(VARIED, num_micro_batches=1, batch_per_device=8)
    yield replace(VARIED, num_micro_batches=2, batch_per_device=4)
    yield replace(VARIED, gradient_dtype="fp32")
    yield replace(VARIED, tensor_parallel=2, data_parallel=1, num_micro_batches=16)


def test_what_plans_share_is_what_each_has() -> None:
    """In any order, and twice."""
    shared = SharedCosts(WORKLOAD, CLUSTER)
    every = list(variants())
    for plan in (*every, *every[::-1]):
        layers = model_costs(WORKLOAD, CLUSTER, plan)
        found = shared.stages(plan)
        assert found.costs == stage_costs(WORKLOAD, CLUSTER, plan, layers)
        assert found.needs == stage_needs(WORKLOAD, plan)
        assert shared.memory(plan) == compile_plan(WORKLOAD, CLUSTER, plan).memory
    assert shared.judge(replace(VARIED, num_stages=3), 0.8).reason
    assert shared.judge(replace(VARIED, num_stages=3), 0.8).memory_bytes == ()


@pytest.mark.parametrize("plan", [VARIED, replace(VARIED, schedule="zb-h1", recomputation="none")])
def test_stages_of_any_size_are_those_of_a_plan(plan: Plan) -> None:
    tables = StageTables(WORKLOAD, CLUSTER, plan)
    for layers, again in (((5, 9, 8, 10), None), ((8, 8, 8, 8), (8, 3, 0, 5))):
        split = replace(plan, stage_layers=layers)
        if again is not None and plan.recomputation != "none":
            split = replace(split, recomputed_of_stages=again)
        costs = stage_costs(WORKLOAD, CLUSTER, split, model_costs(WORKLOAD, CLUSTER, split))
        needs = stage_needs(WORKLOAD, split)
        memory = rank_memory(needs, tables.moments)
        begin = 0
        for stage, count in enumerate(layers):
            size = StageSize(stage, begin, begin + count)
            recomputed = None if again is None else again[stage]
            own = costs[stage]
            wanted = own.forward_s + own.input_gradient_s + own.weight_gradient_s
            assert tables.seconds(size, recomputed) == wanted
            assert tables.seconds(size, recomputed) == wanted
            assert tables.needs(size, recomputed) == needs[stage]
            if again is None:
                assert tables.peak_bytes(size) == pytest.approx(memory[stage].total_bytes)
            begin += count
    need = replace(
        stage_needs(WORKLOAD, VARIED)[0],
        saved_bytes=100.0,
        recomputed_stage_bytes=10.0,
        recomputed_bytes=1.0,
    )
    assert held_bytes(need, [3, 2, 1]) == 321.0


def test_blocks_of_a_stage_are_those_at_its_place() -> None:
    """The first three are dense."""
    moe = model_preset("mixtral-8x7b").moe
    assert moe is not None
    model = replace(
        model_preset("mixtral-8x7b"), num_layers=8, moe=replace(moe, first_dense_layers=3)
    )
    work = replace(WORKLOAD, model=model)
    plan = replace(VARIED, expert_parallel=2)
    tables = StageTables(work, CLUSTER, plan)
    for layers in ((1, 3, 2, 2), (2, 2, 2, 2), (3, 1, 1, 3), (5, 1, 1, 1)):
        split = replace(plan, stage_layers=layers)
        costs = stage_costs(work, CLUSTER, split, model_costs(work, CLUSTER, split))
        needs = stage_needs(work, split)
        for stage, own in enumerate(costs):
            begin = sum(layers[:stage])
            size = StageSize(stage, begin, begin + layers[stage])
            wanted = own.forward_s + own.input_gradient_s + own.weight_gradient_s
            assert tables.seconds(size) == wanted
            assert tables.needs(size) == needs[stage]


def test_the_kernel_is_chosen_for_all_lists_and_their_plans(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Actions of a list, and how many plans share it."""
    asked: list[tuple[int, int]] = []

    def kernel_for(sizes: Iterable[tuple[int, int]]) -> str:
        asked.extend(sizes)
        return "numpy"

    monkeypatch.setattr(exhaustive_module, "kernel_for", kernel_for)
    some = ask().many(FITS)
    exhaustive(WORKLOAD, CLUSTER, [t.plan for t in some])
    counts = Counter(schedule_key(t.plan) for t in some)
    wanted = [
        (2 * count * ranks * virtual, plans) for (_, ranks, virtual, count), plans in counts.items()
    ]
    assert sorted(asked) == sorted(wanted)


def test_a_planner_has_as_many_evaluations_as_there_are_plans() -> None:
    def endless(space: Space, evaluate: Evaluator, rng: object) -> None:
        while True:
            evaluate.many(
                list(space)[:7] if not space.constraints.is_uneven else [space.row(0)] * 9
            )

    small = make_space(WORKLOAD, CLUSTER, Constraints(num_stages=(1,), zero_stage=(1,)))
    report = run_planner(endless, small)
    assert (report.num_asked, report.stopped, report.planner) == (
        *(len(small), "budget used up"),
        "endless",
    )
    assert not report.failed
    uneven = make_space(
        WORKLOAD, CLUSTER, Constraints(num_stages=(2,), zero_stage=(1,), uneven_stages=True)
    )
    assert run_planner(endless, uneven).num_asked == 50 * len(uneven)
    assert (report.space_size, report.seed, report.gap) == (len(small), 0, None)

    def silent(space: Space, evaluate: Evaluator, rng: object) -> None:
        evaluate.bounds([space[0]])

    nothing = run_planner(silent, small, seed=3, with_gap=True)
    assert (nothing.stopped, nothing.best, nothing.gap) == (
        *("failed: it asked about no plan", None),
        None,
    )
    assert (nothing.num_bounds, nothing.seed, nothing.failed) == (1, 3, True)

    def broken(space: Space, evaluate: Evaluator, rng: object) -> None:
        evaluate(space[0])
        raise ValueError("no good")

    failed = run_planner(broken, small)
    assert failed.stopped.startswith("failed: ValueError: no good (")
    assert "test_evaluator_accounting.py, line " in failed.stopped
    assert len(failed.trials) == 1
