"""Advanced Parallelization's search.

It generates its few candidates, drops what does not fit, simulates the rest and selects the
fastest.
"""

from random import Random

from parplan.planners.ap.candidates import ap_candidates
from parplan.planners.search.evaluator import Evaluator
from parplan.planners.spaces.options import Options
from parplan.planners.spaces.space import Space, point_of


def as_ap(space: Space, evaluate: Evaluator, rng: Random) -> None:
    """Ask about AP's candidates; of one that the space does not have, the nearest that it has.

    Nothing depends on `rng`.
    """
    candidates = ap_candidates(space.workload, space.cluster, Options())
    evaluate.many(dict.fromkeys(space.nearest(point_of(plan)) for plan in candidates))
