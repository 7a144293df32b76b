"""Cost of every single change to the chosen plan."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from parplan.hardware.network.cluster import Cluster
from parplan.planners.costs.cost_cache import SharedCosts
from parplan.planners.costs.trial import Trial, kind_of
from parplan.planners.spaces.recomputed import name_of
from parplan.planners.spaces.space import Space, point_of
from parplan.sim.memory.peak import GB
from parplan.sim.plan import Plan
from parplan.sim.workload import Workload

CLOSE = 0.03
"""Plans at most so much slower are listed as close."""

EQUAL = 0.0005
"""Step times that differ by a smaller share are called equal."""


def pace_of(extra_share: float) -> str:
    """How fast a plan is beside another whose step is shorter by `extra_share`, in words."""
    if abs(extra_share) < EQUAL:
        return "as fast"
    return f"{abs(extra_share):.1%} {'slower' if extra_share > 0 else 'faster'}"


@dataclass(frozen=True, slots=True, kw_only=True)
class OtherPlan:
    """A plan beside the chosen one."""

    trial: Trial
    """With its step time also where it does not fit."""
    extra_share: float
    """How much longer its step takes, over that of the chosen plan; negative: faster."""
    missing_bytes: float = 0.0
    """Memory that the fullest device lacks; 0 where it fits."""
    fullest: str = ""
    """Which that is: a stage, or a rank of several stages."""

    @property
    def fits(self) -> bool:
        """Whether it is possible."""
        return self.trial.fits

    @property
    def pace(self) -> str:
        """Compare its speed with the chosen plan's, in words."""
        return pace_of(self.extra_share)

    @property
    def missing(self) -> str:
        """What the fullest device lacks, in words."""
        return f"{max(0.1, self.missing_bytes / GB):.1f} GB"


@dataclass(frozen=True, slots=True, kw_only=True)
class Change(OtherPlan):
    """Another value of one dimension of the plan, and what it would cost."""

    field: str
    before: str
    after: str
    extra_s: float
    """Seconds that a step would take longer; negative: faster."""

    @property
    def verdict(self) -> str:
        """Describe what speaks against it."""
        if self.fits:
            return self.pace
        lack = f"{self.missing} more on {self.fullest}"
        return f"{self.pace}, {'but' if self.extra_share < EQUAL else 'and'} needs {lack}"

    def __str__(self) -> str:
        return f"{self.field} {self.before} -> {self.after}: {self.verdict}"


def changes(
    workload: Workload,
    cluster: Cluster,
    best: Trial,
    trials: Sequence[Trial],
    *,
    memory_ratio: float = 0.8,
    space: Space | None = None,
) -> tuple[Change, ...]:
    """Every change of one dimension of `best`, the fastest first, those that do not fit too.

    The changed plans are those of `trials`, and those of `space` one move away. What a change
    brings with it (another number of replicas, a schedule for a first second stage) is taken as
    well as possible. Plans that cannot be laid out at all are left out.
    """
    if best.step_s is None:
        return ()
    known = {trial.plan: trial for trial in trials}
    near = () if space is None or best.plan not in space else space.neighbours(best.plan)
    shared = SharedCosts(workload, cluster)
    limit = memory_ratio * cluster.accelerator.memory_bytes
    found: dict[tuple[str, str], Change] = {}
    for plan in dict.fromkeys((*known, *near)):
        field = changed_field(best.plan, plan)
        if field is None:
            continue
        trial = known.get(plan) or shared.judge(plan, memory_ratio)
        if not trial.memory_bytes:
            continue
        change = _change(shared, best, field, trial, limit)
        other = found.get((field, change.after))
        if other is None or _order(change) < _order(other):
            found[field, change.after] = change
    return tuple(sorted(found.values(), key=lambda c: (c.extra_s, c.field, c.after)))


def _order(change: Change) -> tuple[bool, float]:
    return not change.fits, change.extra_s


def _change(shared: SharedCosts, best: Trial, field: str, trial: Trial, limit: float) -> Change:
    step_s, own_s = trial.step_s, best.step_s or 1.0
    if step_s is None:
        (timed,) = shared.timed([trial])
        trial, step_s = timed, timed.step_s or 0.0
    fullest, most = max(enumerate(trial.memory_bytes), key=lambda item: item[1])
    what = "stage" if trial.plan.virtual_stages == 1 else "rank"
    return Change(
        field=field,
        before=_value(best.plan, field),
        after=_value(trial.plan, field),
        trial=trial,
        extra_s=step_s - own_s,
        extra_share=step_s / own_s - 1,
        missing_bytes=0.0 if trial.fits else max(0.0, most - limit),
        fullest=f"{what} {fullest}",
    )


def changed_field(plan: Plan, other: Plan) -> str | None:
    """The one dimension in which `other` differs; None where there is none, or several.

    What has only one value without tensor parallelism, replicas or a pipeline does not count.
    """
    one, two = point_of(plan), point_of(other)
    if one.layout.degrees != two.layout.degrees:
        if 1 in (plan.tensor_parallel, other.tensor_parallel):
            two = two._replace(sequence_parallel=one.sequence_parallel)
        if 1 in (plan.replicas, other.replicas):
            two = two._replace(zero_stage=one.zero_stage)
        if 1 in (plan.num_stages, other.num_stages):
            two = two._replace(ordering=one.ordering)
    before, after = one.values(), two.values()
    differing = [name for name in before if before[name] != after[name]]
    if len(differing) != 1:
        return None
    (name,) = differing
    if name == "ordering":
        if plan.schedule != other.schedule:
            return "schedule"
        same = plan.virtual_stages == other.virtual_stages
        return "stage_layers" if same else "virtual_stages"
    return "expert_tensor_parallel" if name == "expert_split" else name


def _value(plan: Plan, field: str) -> str:
    if field == "schedule" and plan.virtual_stages > 1:
        return f"{plan.schedule} x {plan.virtual_stages}"
    if field == "recomputation":
        return name_of(plan)
    if field == "stage_layers" and plan.stage_layers is None:
        return "even"
    if field == "expert_tensor_parallel" and plan.expert_tensor_parallel is None:
        return str(plan.tensor_parallel)
    value = getattr(plan, field)
    return "all" if value is None else str(value)


def binding(found: Sequence[Change]) -> str:
    """Describe what limits the speed of the plan.

    Where it is memory: the change that needs the least more of it.
    """
    faster = [c for c in found if c.extra_share <= -EQUAL]
    allowed = [c for c in faster if c.fits]
    if allowed:
        return f"a change that was not searched is faster: {allowed[0]}"
    if faster:
        least = min(faster, key=lambda c: c.missing_bytes)
        return (
            f"memory binds: {least.field} {least.before} -> {least.after} would be {least.verdict}"
        )
    fitting = [c for c in found if c.fits]
    if not fitting:
        return "no other value of any dimension is possible"
    return f"no single change is faster, whatever the memory; the nearest: {fitting[0]}"


def close_trials(trials: Iterable[Trial], best: Trial, within: float) -> list[Trial]:
    """Possible plans at most `within` (0.03: 3 %) slower than `best`, the fastest first."""
    most_s = (1 + within) * (best.step_s or 0.0)
    near = [
        t for t in trials if t.step_s is not None and t.step_s <= most_s and t.plan != best.plan
    ]
    return sorted(near, key=lambda t: t.step_s or 0.0)


def best_of_kinds(
    trials: Iterable[Trial], best: Trial, at_most: int, within: float = 1.0
) -> list[Trial]:
    """`best`, then the fastest plan of each other kind, at most so many in all.

    Plans that are slower by more than `within` (1.0: twice as slow) are left out.

    A kind is which ways of splitting a plan uses: pipeline, tensor, context and expert
    parallelism, sharding at use (ZeRO-3).
    """
    found = {kind_of(best.plan): best}
    for trial in close_trials(trials, best, within):
        found.setdefault(kind_of(trial.plan), trial)
    return list(found.values())[:at_most]


def plan_label(plan: Plan) -> str:
    """A plan in few words: its degrees, sharding, recomputation, micro-batches."""
    degrees = (
        ("PP", plan.num_stages),
        ("TP", plan.tensor_parallel),
        ("CP", plan.context_parallel),
        ("EP", plan.expert_parallel),
        ("DP", plan.data_parallel),
    )
    words = [f"{name} {degree}" for name, degree in degrees if degree > 1] or ["one device"]
    if plan.num_stages > 1:
        chunks = f" x {plan.virtual_stages}" if plan.virtual_stages > 1 else ""
        words.append(f"{plan.schedule}{chunks}")
    words += [f"ZeRO-{plan.zero_stage}"] if plan.zero_stage else []
    words += [f"{plan.recomputation} recomputation"] if plan.recomputation != "none" else []
    return ", ".join([*words, f"{plan.num_micro_batches} x {plan.batch_per_device}"])


def without_split(trial: Trial) -> Trial:
    """The same with as many layers on each stage as possible, for comparisons with others."""
    return replace(trial, plan=replace(trial.plan, stage_layers=None))
