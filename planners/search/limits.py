"""Size limits of searches, checked before memory is allocated."""

from parplan.errors import ParplanError
from parplan.planners.search.budget import Budget
from parplan.planners.spaces.space import Space

MOST_RECORDED = 1_000_000
"""Plans that a planner may ask about: its record holds each of them, in about 1.5 kB."""


def check_record(planner: object, space: Space, budget: Budget | None) -> None:
    """Raise `ParplanError` for a search whose record would not fit in memory."""
    wanted = None if budget is None else budget.evaluations
    if wanted is not None and wanted > MOST_RECORDED:
        raise ParplanError(
            f"budget: at most {MOST_RECORDED:,} evaluations, of which a record fits in memory; "
            f"got {wanted:,}"
        )
    if planner == "exhaustive" and budget is None and len(space) > MOST_RECORDED:
        raise ParplanError(
            f"planner exhaustive: holds every plan, at most {MOST_RECORDED:,}; the space has "
            f"{len(space):,}; give a budget, or search without a planner, which holds the best"
        )
