"""`parplan scale`: the best plan at each size, where efficiency is lost, and what if."""

import argparse
import dataclasses
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from parplan.errors import ParplanError
from parplan.experiments.arguments.dask import (
    add_sweep_arguments,
    check_workers,
    requested_executor,
)
from parplan.experiments.arguments.money import add_money_arguments, bill_at, bill_text
from parplan.experiments.arguments.numbers import whole
from parplan.experiments.arguments.space import space_name
from parplan.experiments.arguments.workload import (
    add_workload_arguments,
    batches,
    requested_workload,
)
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
from parplan.experiments.output.tables import columns
from parplan.experiments.scaling.figure import Curves, efficiency, figure
from parplan.experiments.scaling.machines import AS_IT_IS, ScaledMachine, node_named, what_if
from parplan.experiments.scaling.study import GROUPS, RESOURCES, ScalePoint, point_of, point_rows
from parplan.planners.spaces.constraints import Constraints, read_constraints
from parplan.planners.spaces.make import constraints_of_options
from parplan.planners.spaces.options import Options
from parplan.sim.workload import Workload

JOURNAL = "points.jsonl"
STRONG, WEAK = "strong", "weak"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `parplan scale`."""
    add_workload_arguments(parser)
    group = parser.add_argument_group(
        "scaling", "--cluster names the accelerators or the nodes, as in h100 or dgx-h100"
    )
    group.add_argument(
        "--sizes", required=True, metavar="N,N,...", help="numbers of accelerators, ascending"
    )
    group.add_argument(
        "--scaling",
        choices=(STRONG, WEAK, "both"),
        default="both",
        help="strong: the same global batch at every size; weak: it grows with the size, from "
        "--global-batch at the smallest; both (default)",
    )
    group.add_argument(
        "--what-if",
        action="append",
        default=[],
        metavar="PART=FACTOR",
        help="also another machine: network_bandwidth=2, memory=2, compute=2, accelerator=h200, "
        "...; several times",
    )
    group.add_argument(
        "--space", type=space_name, default="full",
        help="which plans are searched: full (default), or a TOML file of constraints",
    )  # fmt: skip
    add_money_arguments(parser.add_argument_group("training"))
    add_sweep_arguments(parser)
    add_output_arguments(parser, "out/scale")


def run(args: argparse.Namespace) -> int:
    """Search at every size, print, draw, write; 1 if nothing fits at any of them."""
    check_workers(args)
    sizes, machines = _sizes(args.sizes), _machines(args)
    (batch, *more) = batches(args.global_batch)
    if more:
        raise ParplanError(f"--global-batch: one number, got {args.global_batch}")
    workload, base = requested_workload(args, batch), _base(args)
    for machine in machines:
        for size in sizes:
            machine.sized(size)
    kinds = [STRONG, WEAK] if args.scaling == "both" else [args.scaling]
    workloads = {kind: _grown(workload, kind, sizes) for kind in kinds}
    head = fingerprint(workload, None, base=dataclasses.asdict(base))
    if not args.force and says_finished(args.output, _inputs(args), head):
        return 0
    left = () if is_done(args.output) else (JOURNAL, "scaling.csv", "scaling.png")
    output = new_folder(args.output, args.argv, force=args.force, unfinished=left)
    found = _points(workloads, machines, sizes, base, output, args)
    _write(output, found, workload, args)
    output.write_manifest({**_inputs(args), "depends_on": digest(head)})
    print("\n".join([*_said(found), *_training(found, args)]))
    print(f"parplan: results: {output.path}/ ({', '.join(sorted(output.files))})", file=sys.stderr)
    fitting = any(p.step_s for curves in found.values() for ps in curves.values() for p in ps)
    return 0 if fitting else 1


def _sizes(text: str) -> list[int]:
    try:
        sizes = [whole(word) for word in text.split(",")]
    except argparse.ArgumentTypeError:
        raise ParplanError(f"--sizes: expected numbers, as in 8,16,32, got {text!r}") from None
    if min(sizes) < 1 or sorted(set(sizes)) != sizes:
        raise ParplanError(f"--sizes: expected ascending numbers from 1 on, got {text}")
    return sizes


def _machines(args: argparse.Namespace) -> list[ScaledMachine]:
    if args.profile is not None or args.cluster is None:
        raise ParplanError("--cluster: name an accelerator or a node, as in h100 or dgx-h100")
    node = node_named(args.cluster)
    machines = [ScaledMachine(node=node), *(what_if(node, text) for text in args.what_if)]
    labels = [machine.label for machine in machines]
    if len(set(labels)) < len(labels):
        raise ParplanError(f"--what-if: one is there twice: {', '.join(labels[1:])}")
    return machines


def _base(args: argparse.Namespace) -> Constraints:
    if args.space in ("ap", "everything"):
        raise ParplanError(f"--space {args.space}: scaling needs full, or a TOML file")
    if args.space == "full":
        return constraints_of_options(Options())
    return read_constraints(Path(args.space))


def _grown(workload: Workload, kind: str, sizes: Sequence[int]) -> list[Workload]:
    """The workload at each size."""
    if kind == STRONG:
        return [workload] * len(sizes)
    grown = []
    for size in sizes:
        batch, rest = divmod(workload.global_batch * size, sizes[0])
        if rest:
            raise ParplanError(
                f"--global-batch {workload.global_batch}: does not grow evenly from {sizes[0]} to "
                f"{size} accelerators"
            )
        grown.append(replace(workload, global_batch=batch))
    return grown


def _points(
    workloads: Mapping[str, Sequence[Workload]],
    machines: Sequence[ScaledMachine],
    sizes: Sequence[int],
    base: Constraints,
    output: OutputFolder,
    args: argparse.Namespace,
) -> dict[str, Curves]:
    """Every point by kind and machine; those of an earlier run from its journal."""
    workload = workloads[next(iter(workloads))][0]
    cases: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for kind, grown in workloads.items():
        for machine in machines:
            cases.setdefault(kind, {})[machine.label] = [
                {"machine": dataclasses.asdict(machine), "size": size, "batch": own.global_batch}
                for size, own in zip(sizes, grown, strict=True)
            ]
    every = [case for curves in cases.values() for curve in curves.values() for case in curve]
    # Kinds of scaling begin with the same point.
    distinct = [case for n, case in enumerate(every) if case not in every[:n]]
    head, progress = fingerprint(workload, None, base=dataclasses.asdict(base)), ProgressLine()
    with RowJournal(output.path / JOURNAL, head, point_of) as journal:
        try:
            with requested_executor(args.dask) as executor:
                swept(
                    *(journal, [distinct], partial(point_rows, workload, tuple(machines), base)),
                    workers=args.workers,
                    executor=executor,
                    at_once=1,
                    progress=lambda done: progress("sizes", done, len(distinct)),
                )
        except KeyboardInterrupt:
            _note(f"{len(journal.rows)} searches done; the same command goes on")
            raise
        found = {
            kind: {n: [journal.made(case) for case in own] for n, own in curves.items()}
            for kind, curves in cases.items()
        }
    output.files.append(JOURNAL)
    return dict(found)


def _write(
    output: OutputFolder, found: Mapping[str, Curves], workload: Workload, args: argparse.Namespace
) -> None:
    output.write_csv("scaling.csv", list(_rows(found, args)))
    title = f"{workload.model.name} on {args.cluster}, {workload.seq_len} tokens a sequence"
    output.write_figure("scaling.png", lambda: figure(found, title))


def _inputs(args: argparse.Namespace) -> dict[str, str]:
    return {k: str(v) for k, v in vars(args).items() if k not in ("argv", "command")}


def _rows(found: Mapping[str, Curves], args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    for kind, curves in found.items():
        for machine, points in curves.items():
            for p, share in zip(points, efficiency(points), strict=True):
                yield {
                    "scaling": kind,
                    "machine": machine,
                    "accelerators": p.accelerators,
                    "global_batch": p.global_batch,
                    "step_s": _or_empty(p.step_s),
                    "tokens_per_s": _or_empty(p.tokens_per_s),
                    "mfu": _or_empty(p.mfu),
                    "efficiency": share if share == share else "",
                    "memory_gb": _or_empty(p.memory_gb),
                    "plan": p.plan,
                    **{f"share of {name}": p.shares.get(name, "") for name in GROUPS},
                    **{f"gain of {name} x 2": p.gains.get(name, "") for name in RESOURCES},
                    **_bill_row(p, args),
                    "reason": p.reason,
                }


def _bill_row(point: ScalePoint, args: argparse.Namespace) -> dict[str, Any]:
    """Time and money of the training, where they are asked for."""
    if args.tokens is None and args.price_per_hour is None:
        return {}
    rate = point.tokens_per_s
    bill = None if rate is None else bill_at(args, point.accelerators, rate)
    names = ("training_s", "accelerator_hours", "cost", "cost_per_1e9_tokens", "currency")
    return dict.fromkeys(names, "") if bill is None else bill.table()


def _training(found: Mapping[str, Curves], args: argparse.Namespace) -> Iterator[str]:
    """A line for each size that has a plan, where time or money is asked for."""
    for kind, curves in found.items():
        for machine, points in curves.items():
            for point in points:
                rate = point.tokens_per_s
                bill = None if rate is None else bill_at(args, point.accelerators, rate)
                if bill is not None:
                    what = f"{kind}, {machine}, {point.accelerators} accelerators"
                    yield f"training, {what}: {bill_text(bill.table())}"


def _or_empty(value: float | None) -> float | str:
    return "" if value is None else value


HEADS = ["machine", "accelerators", "step", "speed-up", "tokens/s", "MFU", "efficiency",
         "most lost by", "next bottleneck", "plan"]  # fmt: skip


def _said(found: Mapping[str, Curves]) -> Iterator[str]:
    """A table for each kind of scaling, then what the last size waits for."""
    for kind, curves in found.items():
        yield f"{kind} scaling"
        yield columns([HEADS, *_cells(curves)])
        yield from _bottleneck(curves[AS_IT_IS])


def _cells(curves: Curves) -> Iterator[list[str]]:
    for machine, points in curves.items():
        for p, share, own in zip(points, efficiency(points), curves[AS_IT_IS], strict=True):
            if p.step_s is None or p.tokens_per_s is None or p.mfu is None:
                yield [machine, str(p.accelerators), *["-"] * 7, f"nothing: {p.reason}"]
                continue
            loss = f"{p.loss} {p.shares[p.loss]:.1%}"
            waits = f"{p.bottleneck} {p.gains[p.bottleneck]:.1%}" if p.bottleneck else ""
            yield [
                machine,
                str(p.accelerators),
                f"{p.step_s:.4g} s",
                "-" if machine == AS_IT_IS or not own.step_s else f"{own.step_s / p.step_s:.3f}",
                f"{p.tokens_per_s:,.0f}",
                f"{p.mfu:.1%}",
                f"{share:.1%}",
                loss,
                waits,
                p.plan,
            ]


def _bottleneck(points: Sequence[ScalePoint]) -> Iterator[str]:
    largest = next((p for p in reversed(points) if p.step_s is not None), None)
    if largest is None:
        yield "nothing fits at any size"
        return
    gains = sorted(largest.gains.items(), key=lambda item: -item[1])
    words = ", ".join(f"{name.replace('_', ' ')} {gain:.1%}" for name, gain in gains)
    yield f"of the step on {largest.accelerators}, twice as much would save: {words}"


def _note(line: str) -> None:
    print(f"parplan: {line}", file=sys.stderr)
