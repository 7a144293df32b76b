"""Bounds of plans of default spaces, drawn by chance, beside their exact steps.

The bounds are those that a search goes by: of the layout, and of the plan with the fewest blocks
recomputed with which it fits. Those that say that no variant of a plan fits are compared as well.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

import numpy as np

from parplan.errors import ParplanError
from parplan.experiments.benchmarks.simulator import SEED, Measure
from parplan.hardware.machines.presets import cluster_preset
from parplan.planners.bounds.bounds_by_layout import BoundsByLayout
from parplan.planners.costs.cost_cache import SharedCosts
from parplan.planners.costs.goal import IMPOSSIBLE
from parplan.planners.spaces.everything import everything
from parplan.planners.spaces.make import make_space
from parplan.planners.spaces.space import Space
from parplan.sim.models.model import model_preset
from parplan.sim.plan import Plan
from parplan.sim.workload import Workload


@dataclass(frozen=True, slots=True, kw_only=True)
class SampledJob:
    """A model, a cluster, tokens of a sequence, and sequences of a step."""

    model: str
    cluster: str
    seq_len: int
    batch: int

    def space(self) -> Space:
        """All that applies to the job."""
        workload = Workload(
            model=model_preset(self.model), seq_len=self.seq_len, global_batch=self.batch
        )
        cluster = cluster_preset(self.cluster)
        return make_space(workload, cluster, everything(workload, cluster))


JOBS = (
    SampledJob(model="llama3.2-3b", cluster="12xh100", seq_len=4096, batch=24),
    SampledJob(model="deepseek-v2-lite", cluster="32xb200", seq_len=4096, batch=64),
    SampledJob(model="mixtral-8x7b", cluster="4xdgx-h100", seq_len=8192, batch=32),
    SampledJob(model="llama2-13b", cluster="24xa100", seq_len=2048, batch=24),
    SampledJob(model="gemma2-9b", cluster="16xmi300x", seq_len=16384, batch=16),
)

LAYOUTS = 20
"""Layouts of each job whose plans are bounded, by chance."""

AT_ONCE = 500
"""Plans that are evaluated together."""

MOST_ACTIONS = 4000
"""Plans with longer lists are left out."""

ANY = 1e9
"""Seconds below which bounds are made as tight as can be."""


def measures(samples: int, jobs: tuple[SampledJob, ...] = JOBS) -> Iterator[Measure]:
    """Plans that fit, as many as `samples`, whose bounds are above their steps or rule them out."""
    if samples < 1:
        raise ParplanError(f"--bounds: at least 1 plan, got {samples}")
    whole = np.zeros(4)
    for number, job in enumerate(jobs):
        own = samples // len(jobs) + (number < samples % len(jobs))
        found = _compared(job.space(), own, Random(SEED))
        name = f"{job.model} on {job.cluster}"
        yield Measure(what=f"{name}, plans that fit", value=found[0], unit="plans")
        yield Measure(what=f"{name}, bound over step", value=found[3] / max(1, found[0]), unit="")
        whole += found
    yield Measure(what="plans that fit", value=whole[0], unit="plans")
    yield Measure(what="bounds above their step", value=whole[1], unit="plans", target="0")
    yield Measure(what="ruled out, and fit", value=whole[2], unit="plans", target="0")


def _compared(
    space: Space, samples: int, rng: Random
) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """How many fit, are bounded above their step, are ruled out though they fit.

    And the sum of bound over step.
    """
    shared, ratio = SharedCosts(space.workload, space.cluster), space.constraints.memory_ratio
    bounds = BoundsByLayout(space, ratio, shared.parts_of(space.constraints), shared.moments_of)
    of_layouts = bounds.of_layouts
    layouts = rng.sample(range(len(of_layouts)), min(LAYOUTS, len(of_layouts)))
    bounds.open(layouts, ANY)
    begins = np.cumsum([0, *(group.size for group in space.groups)])
    rows = np.concatenate([np.arange(begins[n], begins[n + 1]) for n in layouts])
    may = rows[bounds.of_plans[rows] < IMPOSSIBLE].tolist()
    every = rows.tolist()
    if not may:
        raise ParplanError("bounds: nothing fits in the layouts that were drawn")
    found = np.zeros(4)
    while found[0] < samples:
        # Of those that are ruled out, few: most do not fit, and tell nothing of bounds.
        chances = (rng.random() for _ in range(AT_ONCE))
        drawn = _short(space, [rng.choice(every if p < 0.1 else may) for p in chances])
        chosen = [_variant(space, row, rng) for row in drawn]
        for row, trial in zip(drawn, shared.evaluated(ratio, chosen), strict=True):
            if trial.step_s is not None and found[0] < samples:
                layout = int(np.searchsorted(begins, row, side="right")) - 1
                own = max(float(bounds.of_plans[row]), float(of_layouts[layout]))
                lost = own == IMPOSSIBLE
                share = 0.0 if lost else own / trial.step_s
                found += (1, not lost and own > trial.step_s, lost, share)
    return found


def _short(space: Space, rows: list[int]) -> list[int]:
    def actions(plan: Plan) -> int:
        return 2 * plan.total_stages * plan.num_micro_batches

    return [row for row in rows if actions(space.row(row)) <= MOST_ACTIONS]


def _variant(space: Space, row: int, rng: Random) -> Plan:
    """One of the plans of a row, each as likely."""
    box = space.box(row)
    if box is None:
        return space.row(row)
    chosen = {name: (rng.choice(own),) for name, own in box._asdict().items()}
    return space.only(row, box._replace(**chosen))
