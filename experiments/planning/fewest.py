"""Smallest cluster that meets a training deadline."""

import argparse
import sys
from collections.abc import Callable, Sequence

from parplan.errors import ParplanError
from parplan.experiments.arguments.objective import deadline_s, value_text
from parplan.hardware.network.cluster import Cluster
from parplan.planners.costs.objectives import ObjectiveInputs, training_s
from parplan.planners.search.report import Report


def fewest(
    clusters: Sequence[Cluster],
    args: argparse.Namespace,
    setting_of: Callable[[Cluster], ObjectiveInputs],
    search: Callable[[Cluster], Report],
) -> Cluster | None:
    """The first by number of accelerators that meets the deadline; says how long each one takes.

    None where none does. Raises `ParplanError` where there is nothing to choose from.
    """
    if len(clusters) < 2:
        raise ParplanError("--cluster: name several, as in 8xh100,16xh100, to choose the smallest")
    if args.resume:
        raise ParplanError("--resume: goes with a single cluster")
    limit_s = deadline_s(args)
    for cluster in sorted(clusters, key=lambda cluster: cluster.num_accelerators):
        try:
            report = search(cluster)
        except ParplanError as error:
            _note(f"{cluster.name}: {error}")
            continue
        if report.stopped == "interrupted":
            raise KeyboardInterrupt
        best = report.best
        if best is None:
            _note(f"{cluster.name}: no plan fits")
            continue
        seconds = training_s(best, setting_of(cluster))
        in_time = "in time" if seconds <= limit_s else "too late"
        _note(f"{cluster.name}: {value_text('training-time', seconds)}: {in_time}")
        if seconds <= limit_s:
            return cluster
    return None


def _note(line: str) -> None:
    sys.stderr.write(f"parplan: {line}\n")
