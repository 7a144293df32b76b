"""`parplan execute`: run several plans on this machine and compare each with its prediction."""

import argparse
import dataclasses
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from parplan._strict import read_json
from parplan.backend.execution.execute import OtherNodeError, execute
from parplan.backend.execution.result import Execution
from parplan.backend.require import require_torch
from parplan.backend.workers.launch import Nodes
from parplan.backend.workers.supervise import STALL_S, CutOffError
from parplan.errors import ParplanError, RunFailedError
from parplan.experiments.accuracy.comparison import compare_set
from parplan.experiments.accuracy.comparison_tables import (
    executed_plans_text,
    row,
    runs,
    short_name,
    summary,
)
from parplan.experiments.figures.gantt import gantt
from parplan.experiments.output.folder import OutputFolder
from parplan.experiments.output.new_folder import digest, says_finished
from parplan.sim.analysis.timeline import chrome_trace
from parplan.sim.models.find import find_model
from parplan.sim.models.scaled_down import scaled_down
from parplan.sim.plan import Plan, Recomputation
from parplan.sim.plan_file import plan_table, read_plan
from parplan.sim.software.framework import NO_OVERHEAD
from parplan.sim.workload import Workload

LEVELS: tuple[Recomputation, ...] = ("none", "selective", "full")

PARTIAL = "partial.json"
RESULT = "execution.json"
"""What was measured: all other files can be made from it."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `parplan execute`."""
    parser.add_argument("model", nargs="?", default="gpt-tiny", help="model (default %(default)s)")
    parser.add_argument(
        "--processes",
        type=int,
        help="processes of all nodes together (default 2; with --device cuda one for each GPU)",
    )
    parser.add_argument(
        "--device",
        choices=("auto", "cpu", "cuda"),
        default="auto",
        help="where to compute: auto takes GPUs where there is one for each process (default auto)",
    )
    parser.add_argument(
        "--precision",
        choices=("fp32", "bf16"),
        default="fp32",
        help="number format of the products; not with --plan (default %(default)s)",
    )
    parser.add_argument(
        "--nnodes",
        type=int,
        default=1,
        metavar="N",
        help="number of machines; the same command is started on each (default 1)",
    )
    parser.add_argument(
        "--node-rank",
        type=int,
        default=0,
        metavar="K",
        help="rank of this machine, from 0 to N - 1",
    )
    parser.add_argument(
        "--rdzv-endpoint",
        default="",
        metavar="HOST:PORT",
        help="address of node 0 for the rendezvous",
    )
    parser.add_argument(
        "--seq-len", type=int, default=64, help="sequence length in tokens (default %(default)s)"
    )
    parser.add_argument(
        "--global-batch", type=int, default=16, help="sequences per step (default %(default)s)"
    )
    parser.add_argument("--layers", type=int, help="number of layers instead of the model's own")
    parser.add_argument(
        "--scale",
        type=int,
        default=1,
        metavar="N",
        help="scale the model down to about 1/N of its layers, width, heads and vocabulary "
        "(default 1)",
    )
    parser.add_argument(
        "--plan", type=Path, help="plan.json: run this plan with its own workload, and the best one"
    )
    parser.add_argument(
        "--repeats", type=int, default=8, help="timed steps per plan (default %(default)s)"
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="random seed of weights and data (default 0)"
    )
    parser.add_argument(
        "--timeout", type=float, default=1800.0, help="time limit of the run in seconds"
    )
    parser.add_argument(
        "--stall",
        type=float,
        default=STALL_S,
        help="stop the run after so many seconds without progress (default %(default)g)",
    )
    parser.add_argument(
        "--resume",
        action="store_true",
        help=f"write the other files of a run whose {RESULT} is there; nothing is measured again",
    )
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        default=Path("out/execute"),
        help="output folder (default %(default)s)",
    )


def run(args: argparse.Namespace) -> int:
    """Execute, print the table, write."""
    nodes = Nodes(count=args.nnodes, rank=args.node_rank, endpoint=args.rdzv_endpoint)
    args.processes = _processes(args.device, args.processes, nodes.count)
    workload, plans = _request(args)
    if args.resume and says_finished(args.output, _inputs(args), _depends_on(workload, plans)):
        return 0
    output = OutputFolder(args.output, args.argv)
    kept = _kept(output) if args.resume else None
    if kept is not None:
        return _finish(output, kept, workload, args, plans)
    try:
        execution = execute(
            workload,
            args.processes,
            plans,
            repeats=args.repeats,
            seed=args.seed,
            device=args.device,
            timeout_s=args.timeout,
            stall_s=args.stall,
            nodes=nodes,
            report=_note,
        )
    except OtherNodeError as error:
        _note(str(error))
        return 0
    except CutOffError as error:
        _keep_partial(output, error)
        raise
    _keep(output, execution)
    return _finish(output, execution, workload, args, plans)


def _processes(device: str, asked: int | None, num_nodes: int) -> int:
    """One for each GPU where these are asked for, else two; raises `ParplanError` without GPUs."""
    if device != "cuda":
        return 2 if asked is None else asked
    require_torch("executing plans")
    from parplan.backend.calibration.this_machine import num_gpus  # imports torch

    here = num_gpus()
    processes = here * num_nodes if asked is None else asked
    if here == 0:
        raise ParplanError("--device cuda: torch sees no GPU on this machine; leave --device out")
    if processes > here * num_nodes:
        raise ParplanError(
            f"--processes {processes}: with --device cuda each needs a GPU of its own, and this "
            f"machine has {here}"
        )
    return processes


def _keep(output: OutputFolder, execution: Execution) -> None:
    """What was measured, on the disk before anything else, or else beside the temporary files."""
    text = json.dumps(execution.to_json(), indent=2) + "\n"
    try:
        output.write_text(RESULT, text)
    except ParplanError as error:
        try:
            handle, name = tempfile.mkstemp(prefix="parplan-execution-", suffix=".json")
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(text)
        except OSError:
            print(table(execution), flush=True)
            raise error from None
        raise RunFailedError(
            f"{error}; what was measured is in {name}: move it to {output.path / RESULT}, and "
            "--resume goes on from there"
        ) from None


def _kept(output: OutputFolder) -> Execution | None:
    """What a run measured before the rest of its files could be written."""
    path = output.path / RESULT
    if not os.path.lexists(path):
        return None
    execution = Execution.from_json(read_json(path), str(path))
    output.adopt(RESULT)
    return execution


def _finish(
    output: OutputFolder,
    execution: Execution,
    workload: Workload,
    args: argparse.Namespace,
    plans: Sequence[Plan],
) -> int:
    print(table(execution), flush=True)
    _write(output, execution, workload, args)
    depends = digest(_depends_on(workload, plans))
    output.write_manifest({**_inputs(args), "depends_on": depends}, seed=args.seed)
    _note(f"results: {output.path}/ ({', '.join(sorted(output.files))})")
    return 0


def _keep_partial(output: OutputFolder, error: CutOffError) -> None:
    """The steps of a run that ended early, under a name that says so; there is no manifest."""
    output.write_json(
        PARTIAL, {"partial": True, "why": str(error), "steps_of_workers": dict(error.steps)}
    )
    count = max(map(len, error.steps.values()))
    _note(f"partial: the {count} steps that were measured before are in {output.path / PARTIAL}")


def _request(args: argparse.Namespace) -> tuple[Workload, list[Plan]]:
    if args.plan is not None:
        plan, workload, _ = read_plan(args.plan)
        return workload, [plan]
    model = scaled_down(find_model(args.model), args.scale)
    if args.layers is not None:
        model = dataclasses.replace(model, num_layers=args.layers)
    workload = Workload(
        model=model,
        seq_len=args.seq_len,
        global_batch=args.global_batch,
        precision=args.precision,
        framework=NO_OVERHEAD,
    )
    return workload, default_plans(workload, args.processes)


def default_plans(workload: Workload, processes: int) -> list[Plan]:
    """Data parallel, and pipelines by GPipe and 1F1B, without and with full recomputation.

    Raises `ParplanError` when the batch does not divide or the layers don't suffice.
    """
    batch, stages = workload.global_batch, processes
    if processes < 1 or batch % processes:
        raise ParplanError(
            f"global batch: {batch} does not divide over {processes} processes; "
            "take a multiple of them"
        )
    if stages > workload.model.num_layers:
        raise ParplanError(
            f"processes: {stages} stages, but {workload.model.name} has "
            f"{workload.model.num_layers} layers"
        )
    # As many micro-batches as keep the bubble small, and as divide the batch.
    micro_batches = max(m for m in (2, 1) if batch % (m * stages) == 0) * stages
    if processes == 1:
        parts = next(count for count in (4, 3, 2, 1) if batch % count == 0)
        return [
            Plan(num_micro_batches=count, batch_per_device=batch // count, recomputation=level)
            for level in LEVELS
            for count in dict.fromkeys((1, parts))
        ]
    plans = []
    for recomputation in ("none", "full"):
        changed: dict[str, Any] = {"recomputation": recomputation}
        plans.append(Plan(data_parallel=processes, batch_per_device=batch // processes, **changed))
        plans += [
            Plan(
                num_stages=stages,
                num_micro_batches=micro_batches,
                batch_per_device=batch // micro_batches,
                schedule=schedule,
                **changed,
            )
            for schedule in ("gpipe", "1f1b")
        ]
    return plans


def table(execution: Execution) -> str:
    """Predicted, measured and error per plan, then what they say together."""
    lines = [executed_plans_text(execution.executed), summary(compare_set(execution.executed))]
    lines += [
        f"{short_name(plan)}: out of memory on this machine" for plan in execution.out_of_memory
    ]
    if execution.candidates:
        lines.append(
            f"of {len(execution.candidates)} candidates the best of each number of stages, by the "
            f"times of single layers: {', '.join(map(short_name, execution.chosen))}"
        )
    worst = max(e.loss_difference or 0.0 for e in execution.executed)
    lines.append(f"losses: at most {worst:.1e} from those of one process without a plan")
    return "\n".join(lines)


def _write(
    output: OutputFolder, execution: Execution, workload: Workload, args: argparse.Namespace
) -> None:
    output.write_csv("executed.csv", [row(e) for e in execution.executed])
    pick = compare_set(execution.executed).pick.plan
    output.write_json("plan.json", plan_table(pick, workload, f"{args.processes} processes"))
    output.write_trace(chrome_trace(runs(execution.executed)))
    shown = [e for e in execution.executed if e.plan.num_stages > 1] or list(execution.executed)
    name = short_name(shown[-1].plan)
    pair = {f"predicted {name}": shown[-1].predicted, f"measured {name}": shown[-1].measured}
    output.write_figure("gantt.png", lambda: gantt(pair))


def _inputs(args: argparse.Namespace) -> dict[str, Any]:
    inputs = {k: v for k, v in vars(args).items() if k not in ("argv", "command")}
    return inputs | {"output": str(args.output), "plan": args.plan and str(args.plan)}


def _depends_on(workload: Workload, plans: Sequence[Plan]) -> dict[str, Any]:
    """What is measured, beside the arguments: what their files and names stand for."""
    return {
        "workload": dataclasses.asdict(workload),
        "plans": [dataclasses.asdict(plan) for plan in plans],
    }


def _note(line: str) -> None:
    print(f"parplan: {line}", file=sys.stderr, flush=True)
