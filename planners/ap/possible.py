"""How many candidates Advanced Parallelization calls possible, and what its platform is.

Releases from 24.5 on count every candidate that fits. The published counts of earlier ones follow
another rule, a hypothesis: of all pipelines with the same micro-batch size one is counted, and of
those without a pipeline each. It gives the counts of all eight such logs
(`experiments/papers/ap_cases.json`), which do not say why.
"""

import re
from collections.abc import Iterable

from parplan.hardware.network.cluster import Cluster
from parplan.planners.costs.trial import Trial
from parplan.sim.plan import Plan

FLAVOR = re.compile(r"(Small|Medium|Large|(\d+(\.\d+)?)?xLarge)\.\d+GB")
"""The names of the platform's flavors."""

FIRST_TO_COUNT_ALL = "24.5"


def is_flavor(cluster: Cluster) -> bool:
    """Whether a cluster is one of the platform that AP belongs to."""
    return FLAVOR.fullmatch(cluster.name) is not None


def software_of(version: str) -> str:
    """The name of the software preset that stands for AP's platform with a release of AP."""
    return "moai" if version == FIRST_TO_COUNT_ALL else "moai-24.3"


def counted_as(plan: Plan, version: str) -> object:
    """What a release counts a candidate as: those that are the same count once."""
    if version == FIRST_TO_COUNT_ALL or plan.num_stages == 1:
        return plan
    return plan.batch_per_device


def num_counted(trials: Iterable[Trial], version: str) -> int:
    """How many of these candidates a release of AP says are possible."""
    return len({counted_as(trial.plan, version) for trial in trials if trial.fits})
