"""`parplan landscape`: any one or two fields of plan, workload or machine against any metric."""

import argparse
import dataclasses
import math
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

from parplan.errors import ParplanError
from parplan.experiments.arguments.dask import (
    add_sweep_arguments,
    check_workers,
    requested_executor,
)
from parplan.experiments.arguments.money import (
    add_money_arguments,
    training_line,
)
from parplan.experiments.arguments.space import space_name
from parplan.experiments.arguments.workload import (
    add_workload_arguments,
    batches,
    requested_cluster,
    requested_workload,
)
from parplan.experiments.landscape.axes import Axis, axis, known_fields
from parplan.experiments.landscape.cells import Cell, LandscapeRequest, Worker, cell_of
from parplan.experiments.landscape.figure import Landscape, heat_maps, slices
from parplan.experiments.landscape.metrics import METRICS, metric
from parplan.experiments.output.folder import OutputFolder
from parplan.experiments.output.journal import RowJournal, fingerprint
from parplan.experiments.output.new_folder import (
    add_output_arguments,
    digest,
    is_done,
    new_folder,
    says_finished,
)
from parplan.experiments.output.progress import ProgressLine
from parplan.experiments.output.sweep import swept
from parplan.experiments.output.tables import in_a_cell
from parplan.hardware.network.cluster import Cluster
from parplan.planners.costs.objectives import TrainingRun
from parplan.planners.spaces.constraints import Constraints, read_constraints
from parplan.planners.spaces.make import constraints_of_options
from parplan.planners.spaces.options import Options
from parplan.sim.plan import Plan
from parplan.sim.plan_file import read_plan
from parplan.sim.workload import Workload

JOURNAL = "cells.jsonl"
MOST_CELLS = 3000
SAID_REASONS = 5
TOGETHER = "no plan has these values together"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `parplan landscape`."""
    add_workload_arguments(parser)
    group = parser.add_argument_group("landscape", f"fields: {', '.join(known_fields())}")
    values = "FIELD[=VALUES]"
    group.add_argument("--x", required=True, metavar=values, help="as in num_stages=1,2,4,8")
    group.add_argument("--y", metavar=values, help="a second field: heat maps")
    group.add_argument("--panels", metavar=values, help="a third field: a panel for each value")
    group.add_argument(
        "--metric",
        default="step-time",
        metavar="NAME",
        help=f"{', '.join(METRICS)} (default %(default)s)",
    )
    group.add_argument(
        "--around",
        type=Path,
        metavar="PLAN.json",
        help="keep the other fields of this plan (default: the fastest plan of each cell)",
    )
    group.add_argument(
        "--space", type=space_name, default="full",
        help="which plans a cell may have: full (default), or a TOML file of constraints",
    )  # fmt: skip
    group.add_argument(
        "--memory-ratio",
        type=float,
        default=80.0,
        metavar="PERCENT",
        help="share of each device's memory that a plan may use (default 80)",
    )
    add_money_arguments(group)
    add_sweep_arguments(parser)
    add_output_arguments(parser, "out/landscape")


def run(args: argparse.Namespace) -> int:
    """Evaluate every cell, draw, write; 1 if nothing fits in any of them."""
    check_workers(args)
    request = request_of(args, *_subject(args))
    check_request(request, args.metric)
    if not args.force and says_finished(args.output, _inputs(args), _head(request)):
        return 0
    output = new_folder(args.output, args.argv, force=args.force, unfinished=_left(args.output))
    land = landscape_of(request, args, output.path / JOURNAL)
    output.files.append(JOURNAL)
    _write(output, land, {**_inputs(args), "depends_on": digest(_head(request))})
    print("\n".join(summary(land)))
    if land.best is not None:
        devices = request.cluster.num_accelerators
        rate = devices * land.best.metrics["tokens-per-accelerator"]
        if line := training_line(args, devices, rate):
            print(f"training there: {line}")
    print(f"parplan: results: {output.path}/ ({', '.join(sorted(output.files))})", file=sys.stderr)
    return 0 if land.best is not None else 1


def check_request(request: LandscapeRequest, name: str) -> None:
    """Raise `ParplanError` for a metric that is not known, and for too many cells."""
    metric(name, request.run, request.cluster)
    count = math.prod(len(one.values) for one in request.axes)
    if count > MOST_CELLS:
        raise ParplanError(f"{count} cells; at most {MOST_CELLS}: give fewer values")


def landscape_of(request: LandscapeRequest, args: argparse.Namespace, journal: Path) -> Landscape:
    """Evaluate every cell; those that the file `journal` holds already are taken from there."""
    cells = _evaluated(request, journal, args)
    x, *others = request.axes
    y = others.pop(0) if args.y is not None else None
    return Landscape(
        x=x,
        y=y,
        third=others[0] if others else None,
        cells=cells,
        name=args.metric,
        metric=metric(args.metric, request.run, request.cluster),
        title=_title(request),
    )


def _left(path: Path) -> Sequence[str]:
    """Describe what an interrupted run leaves: cells, and no manifest."""
    return () if is_done(path) else (JOURNAL, "landscape.png", "slices.png", "landscape.csv")


def request_of(
    args: argparse.Namespace, around: Plan | None, workload: Workload, cluster: Cluster
) -> LandscapeRequest:
    """Build the request from the arguments. `around`: a plan whose other fields are kept."""
    base = _base(args)
    words = [("--x", args.x), ("--y", args.y), ("--panels", args.panels)]
    axes = [_axis(option, text, workload, cluster, base) for option, text in words if text]
    names = [one.name for one in axes]
    if len(set(names)) < len(names):
        raise ParplanError(f"--x, --y, --panels: a field is there twice: {', '.join(names)}")
    return LandscapeRequest(
        workload=workload,
        cluster=cluster,
        axes=tuple(axes),
        base=base,
        around=around,
        run=TrainingRun(tokens=args.tokens, price_per_hour=args.price_per_hour),
    )


def _subject(args: argparse.Namespace) -> tuple[Plan | None, Workload, Cluster]:
    cluster = requested_cluster(args.cluster, args.profile, args.software)
    (batch, *more) = batches(args.global_batch)
    if more:
        raise ParplanError(f"--global-batch: one number, got {args.global_batch}")
    workload = requested_workload(args, batch)
    around = None if args.around is None else read_plan(args.around)[0]
    return around, workload, cluster


def _base(args: argparse.Namespace) -> Constraints:
    if args.space in ("ap", "everything"):
        raise ParplanError(f"--space {args.space}: a landscape needs full, or a TOML file")
    options = Options(memory_ratio_percent=args.memory_ratio)
    if args.space == "full":
        return constraints_of_options(options)
    return replace(read_constraints(Path(args.space)), memory_ratio=options.memory_ratio)


def _axis(option: str, text: str, workload: Workload, cluster: Cluster, base: Constraints) -> Axis:
    try:
        return axis(text, workload, cluster, base)
    except ParplanError as error:
        raise ParplanError(f"{option}: {error}") from None


def _evaluated(request: LandscapeRequest, path: Path, args: argparse.Namespace) -> list[Cell]:
    """All cells, those of an earlier run from its journal."""
    combinations = product(*(one.values for one in request.axes))
    names = [one.name for one in request.axes]
    cases = [dict(zip(names, values, strict=True)) for values in combinations]
    # Cells of one machine and workload together: they share their costs.
    outer = [one for one in request.axes if one.kind != "plan"]
    groups: dict[tuple[int, ...], list[dict[str, Any]]] = {}
    for case in cases:
        at = tuple(one.values.index(case[one.name]) for one in outer)
        groups.setdefault(at, []).append(case)
    progress = ProgressLine()
    with RowJournal(path, _head(request), partial(cell_of, cases)) as journal:
        if journal.rows:
            _note(f"{len(journal.rows)} of {len(cases)} cells are done already")
        try:
            with requested_executor(args.dask) as executor:
                swept(
                    *(journal, [groups[at] for at in sorted(groups)], Worker(request).rows),
                    workers=args.workers,
                    executor=executor,
                    progress=lambda done: progress("cells", done, len(cases)),
                )
        except KeyboardInterrupt:
            _note(f"{len(journal.rows)} of {len(cases)} cells done; the same goes on")
            raise
        return [journal.made(case) for case in cases]


def _head(request: LandscapeRequest) -> dict[str, Any]:
    return fingerprint(
        request.workload,
        request.cluster,
        axes=[dataclasses.asdict(one) for one in request.axes],
        base=dataclasses.asdict(request.base),
        around=None if request.around is None else request.around.to_json(),
        run=dataclasses.asdict(request.run),
    )


def _title(request: LandscapeRequest) -> str:
    others = "the other fields of one plan" if request.around else "the fastest plan of each cell"
    return f"{request.workload.model.name} on {request.cluster.name}: {others}"


def _write(output: OutputFolder, land: Landscape, inputs: Mapping[str, str]) -> None:
    output.write_csv("landscape.csv", [cell_row(cell, land) for cell in land.cells])
    if land.y is not None:
        output.write_figure("landscape.png", lambda: heat_maps(land))
    output.write_figure("slices.png", lambda: slices(land))
    output.write_manifest(inputs)


def _inputs(args: argparse.Namespace) -> dict[str, str]:
    return {k: str(v) for k, v in vars(args).items() if k not in ("argv", "command")}


def cell_row(cell: Cell, land: Landscape) -> dict[str, Any]:
    """A cell as a row of `landscape.csv`."""
    metrics = {name: cell.metrics.get(name, "") for name in METRICS}
    known = {name for other in land.cells for name in other.metrics} | {land.name}
    plan = {f"plan.{k}": in_a_cell(v) for k, v in (cell.plan or Plan().to_json()).items()}
    return {
        **cell.values,
        "verdict": cell.verdict,
        "reason": cell.reason,
        **{name: value for name, value in metrics.items() if name in known},
        "memory_gb": "" if cell.memory_gb is None else cell.memory_gb,
        "limit_gb": "" if cell.limit_gb is None else cell.limit_gb,
        "plan": cell.label,
        **(plan if cell.plan is not None else dict.fromkeys(plan, "")),
    }


def summary(land: Landscape) -> Iterator[str]:
    """The best cell, and why others are not possible."""
    fitting = sum(cell.verdict == "fits" for cell in land.cells)
    best = land.best
    if best is None:
        yield f"nothing fits in any of the {len(land.cells)} cells"
        close = [cell for cell in land.cells if cell.memory_gb is not None]
        nearest = min(close, key=lambda c: (c.memory_gb or 0) / (c.limit_gb or 1), default=None)
        if nearest is not None:
            yield f"the nearest: {_words(nearest.values)}: {nearest.reason}"
    else:
        yield f"best {land.metric.label}: {land.shown(best):.4g} at {_words(best.values)}"
        yield f"its plan: {best.label}"
        yield f"a plan fits in {fitting} of {len(land.cells)} cells"
    short = [cell for cell in land.cells if cell.verdict == "does not fit"]
    if short:
        yield f"cells where no plan fits in memory: {len(short)}"
    none = [cell.reason for cell in land.cells if cell.verdict == "no such plan"]
    reasons = Counter(TOGETHER if reason.startswith("no plan for") else reason for reason in none)
    for reason, count in reasons.most_common(SAID_REASONS):
        yield f"cells where {reason}: {count}" if reason == TOGETHER else f"{reason}: {count}"
    if len(reasons) > SAID_REASONS:
        yield f"{len(reasons) - SAID_REASONS} more reasons are in landscape.csv"


def _words(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items())


def _note(line: str) -> None:
    print(f"parplan: {line}", file=sys.stderr)
