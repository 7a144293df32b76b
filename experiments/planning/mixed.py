"""`parplan plan --cluster A+B`: one pipeline over clusters of different accelerators."""

import argparse
import sys
from itertools import groupby
from typing import Any

from parplan.errors import ParplanError, short
from parplan.experiments.arguments.numbers import finite
from parplan.experiments.arguments.workload import batches, requested_cluster, requested_workload
from parplan.experiments.figures.gantt import gantt
from parplan.experiments.output.folder import OutputFolder
from parplan.experiments.output.progress import ProgressLine
from parplan.hardware.network.cluster import Cluster, Link
from parplan.planners.ap.candidates import one_batch
from parplan.planners.explain.why import plan_label
from parplan.planners.mixed_clusters import MixedReport, MixedSearch, MixedTrial, mixed_search
from parplan.sim.engine.engine import simulate
from parplan.sim.prediction.predict import scheduled

GB = 1e9
NOT_MIXED = (
    *("planner", "budget", "split_layers", "resume", "check", "measure", "pareto", "profile"),
    *("num_stages", "num_micro_batches", "activation_recomputation", "distribute_parameter"),
)
"""Options that plans over several clusters do not have yet."""


def is_mixed(args: argparse.Namespace) -> bool:
    """Whether several clusters are to work together."""
    return args.cluster is not None and "+" in args.cluster


def run_mixed(args: argparse.Namespace, memory_ratio: float) -> int:
    """Search, print, write; 1 if nothing fits. Raises `ParplanError` for what cannot be asked."""
    for name in NOT_MIXED:
        if getattr(args, name):
            raise ParplanError(
                f"--{name.replace('_', '-')}: not with several clusters ({args.cluster})"
            )
    if args.objective != "step-time":
        raise ParplanError(f"--objective: only step-time with several clusters ({args.cluster})")
    names = args.cluster.split("+")
    parts = [requested_cluster(name, None, args.software) for name in names]
    if len({part.name for part in parts}) < len(parts):
        raise ParplanError(f"--cluster {args.cluster}: names one twice; take a larger cluster")
    batch, _ = one_batch(batches(args.global_batch))
    workload = requested_workload(args, batch)
    search = MixedSearch(workload, parts, between(args.between, parts), memory_ratio)
    output = OutputFolder(args.output, args.argv)
    progress = ProgressLine()
    report = mixed_search(search, progress)
    progress.end()
    output.write_csv("layouts.csv", [_row(trial) for trial in report.trials])
    best = report.best
    if best is None:
        output.write_manifest({"cluster": args.cluster})
        closest = min(report.trials, key=lambda t: max(t.memory_bytes), default=None)
        _note(f"no plan fits{'' if closest is None else f'; the closest: {closest.reason}'}")
        return 130 if report.stopped == "interrupted" else 1
    _write(output, search, best, args)
    for line in _lines(report, best):
        _note(line)
    _note(f"results: {output.path}/ ({', '.join(sorted(output.files))})")
    return 130 if report.stopped == "interrupted" else 0


def between(text: str | None, parts: list[Cluster]) -> Link:
    """The link that `25:5` (GB/s per accelerator and direction, microseconds) says.

    The slowest of the clusters' own outer links where it is None. Raises `ParplanError` else.
    """
    if text is None:
        return min((part.tiers[-1].link for part in parts), key=lambda link: link.bytes_per_s)
    rate, _, latency = text.partition(":")
    try:
        latency_us, gb_per_s = finite(latency), finite(rate)
    except argparse.ArgumentTypeError:
        what = short(text)
        raise ParplanError(f"--between: expected GB/s:us, as in 25:5; got {what}") from None
    return Link(latency_s=latency_us * 1e-6, bytes_per_s=gb_per_s * GB)


def _write(
    output: OutputFolder, search: MixedSearch, best: MixedTrial, args: argparse.Namespace
) -> None:
    run = simulate(scheduled(best.plan).schedule, search.costs(best.layout, best.plan))
    if run.step_s != best.step_s:
        raise AssertionError(f"{best}: {run.step_s} s simulated")
    output.write_json(
        "mixed.json",
        {
            "plan": best.plan.to_json(),
            "clusters": args.cluster.split("+"),
            "stages": [
                {"stage": stage, "cluster": name, "layers": layers, "memory_bytes": memory}
                for stage, (name, layers, memory) in enumerate(
                    zip(best.parts, best.plan.stage_layers or (), best.memory_bytes, strict=True)
                )
            ],
            "step_s": best.step_s,
        },
    )
    output.write_figure("gantt.png", lambda: gantt({"predicted": run}))
    output.write_manifest({"cluster": args.cluster, "between": args.between})


def _lines(report: MixedReport, best: MixedTrial) -> list[str]:
    step_s = best.step_s or 0.0
    lines = [f"predicted step {step_s:.3f} s: {plan_label(best.plan)}"]
    stages = zip(best.parts, best.plan.stage_layers or (), strict=True)
    for name, group in groupby(stages, key=lambda stage: stage[0]):
        layers = " ".join(str(count) for _, count in group)
        lines.append(f"{name}: layers of its stages: {layers}")
    gap = 1 - report.least_s / step_s
    lines.append(
        f"{len(report.trials)} of {report.num_layouts} layouts tried; {report.stopped}; at most "
        f"{gap:.1%} can be gained (gap)"
    )
    return lines


def _row(trial: MixedTrial) -> dict[str, Any]:
    return {
        "plan": plan_label(trial.plan),
        "clusters": " ".join(trial.parts),
        "stage_layers": " ".join(map(str, trial.plan.stage_layers or ())),
        "bound_s": repr(trial.bound_s),
        "step_s": "" if trial.step_s is None else repr(trial.step_s),
        "reason": trial.reason,
    }


def _note(line: str) -> None:
    sys.stderr.write(f"parplan: {line}\n")
