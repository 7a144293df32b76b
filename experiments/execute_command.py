"""`parplan execute`: run several plans on this machine and compare each with its prediction."""

import argparse
import dataclasses
import statistics
import sys
from pathlib import Path
from typing import Any

from parplan.backend.executable import why_not_predictable
from parplan.backend.execute import Executed, Execution, execute
from parplan.experiments.figures import gantt
from parplan.experiments.output import OutputFolder
from parplan.experiments.request import requested_model
from parplan.hardware.errors import ParplanError
from parplan.sim.plan import Plan
from parplan.sim.plan_file import plan_table, read_plan
from parplan.sim.scale import scaled_down
from parplan.sim.timeline import chrome_trace
from parplan.sim.workload import Workload


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `parplan execute`."""
    parser.add_argument("model", nargs="?", default="gpt-tiny", help="(default %(default)s)")
    parser.add_argument(
        "--processes", type=int, default=2, help="local processes (default %(default)s)"
    )
    parser.add_argument("--seq-len", type=int, default=64, help="(default %(default)s)")
    parser.add_argument("--global-batch", type=int, default=16, help="(default %(default)s)")
    parser.add_argument("--layers", type=int, help="instead of the model's own number")
    parser.add_argument(
        "--scale",
        type=int,
        default=1,
        metavar="N",
        help="the model with about 1/N of its layers, width, heads and vocabulary (default 1)",
    )
    parser.add_argument(
        "--plan", type=Path, help="a plan.json: run this one, with its own workload, and the best"
    )
    parser.add_argument(
        "--repeats", type=int, default=8, help="timed steps per plan (default %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of weights and data (default 0)")
    parser.add_argument(
        "--timeout", type=float, default=1800.0, help="seconds before the run is stopped"
    )
    parser.add_argument(
        "-o", "--output", type=Path, default=Path("out/execute"), help="(default %(default)s)"
    )


def run(args: argparse.Namespace) -> int:
    """Execute, print the table, write."""
    workload, plans = _request(args)
    output = OutputFolder(args.output, args.argv)
    execution = execute(
        workload,
        args.processes,
        plans,
        repeats=args.repeats,
        seed=args.seed,
        timeout_s=args.timeout,
        report=_note,
    )
    print(table(execution), flush=True)
    _write(output, execution, workload, args)
    _note(f"results: {output.path}/ ({', '.join(sorted(output.files))})")
    return 0


def _request(args: argparse.Namespace) -> tuple[Workload, list[Plan]]:
    if args.plan is not None:
        plan, workload, _ = read_plan(args.plan)
        return workload, [plan]
    model = scaled_down(requested_model(args.model), args.scale)
    if args.layers is not None:
        model = dataclasses.replace(model, num_layers=args.layers)
    workload = Workload(
        model=model, seq_len=args.seq_len, global_batch=args.global_batch, precision="fp32"
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
        return [Plan(batch_per_device=batch), Plan(batch_per_device=batch, recomputation="full")]
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


def short_name(plan: Plan) -> str:
    """`dp2`, `dp2 zero3`, `tp2 sp`, `pp2 1f1b m8`, ... with `+ full` for recomputation."""
    alone = plan.num_stages == 1 and plan.tensor_parallel == 1
    parts = [f"dp{plan.data_parallel}"] if plan.data_parallel > 1 or alone else []
    if plan.zero_stage:
        parts.append(f"zero{plan.zero_stage}")
    if plan.shard_group is not None:
        parts.append(f"in {plan.shard_group}s")
    if plan.tensor_parallel > 1:
        parts += [f"tp{plan.tensor_parallel}", *(["sp"] if plan.sequence_parallel else [])]
    if plan.num_stages > 1:
        parts += [f"pp{plan.num_stages}", plan.schedule]
    if plan.virtual_stages > 1:
        parts.append(f"v{plan.virtual_stages}")
    parts.append(f"m{plan.num_micro_batches}")
    if plan.recomputation != "none":
        parts.append(f"+ {plan.recomputation}")
    return " ".join(parts)


def table(execution: Execution) -> str:
    """Predicted, measured and error per plan, then what they say together."""
    width = max(len(short_name(e.plan)) for e in execution.executed)
    rows = [f"{'plan':{width}}  predicted  measured   error  spread  loss difference"]
    rows += [
        f"{short_name(e.plan):{width}}  {_prediction(e)} {e.spread:7.1%}  {e.loss_difference:.1e}"
        for e in execution.executed
    ]
    rows += [
        f"{short_name(e.plan)}: measured only; {why_not_predictable(e.plan)}"
        for e in execution.executed
        if e.predicted is None
    ]
    error = statistics.mean(abs(e.error) for e in execution.executed if e.error is not None)
    chosen = _chosen(execution)
    best = min(execution.executed, key=lambda e: e.measured.step_s)
    regret = chosen.measured.step_s / best.measured.step_s - 1
    rows.append(f"mean absolute error {error:.1%}")
    rows.append(
        f"chosen of {len(execution.candidates)} candidates: {short_name(chosen.plan)}; measured "
        f"{regret:.1%} above the fastest of these ({short_name(best.plan)})"
    )
    return "\n".join(rows)


def _prediction(executed: Executed) -> str:
    """Predicted and measured seconds and the error, in columns."""
    measured = f"{executed.measured.step_s:6.3f} s"
    if executed.predicted is None:
        return f"{'-':>9}  {measured} {'-':>7}"
    return f"{executed.predicted.step_s:7.3f} s  {measured} {executed.error:+7.1%}"


def _chosen(execution: Execution) -> Executed:
    """The executed plan that the final calibration predicts to be fastest.

    The job's own choice is always executed, and predicted.
    """
    predicted = [(e.predicted.step_s, e) for e in execution.executed if e.predicted is not None]
    return min(predicted, key=lambda pair: pair[0])[1]


def _write(
    output: OutputFolder, execution: Execution, workload: Workload, args: argparse.Namespace
) -> None:
    output.write_csv("executed.csv", [_row(e) for e in execution.executed])
    output.write_json("calibration.json", execution.calibration)
    output.write_json(
        "plan.json", plan_table(_chosen(execution).plan, workload, f"{args.processes} processes")
    )
    runs = {
        f"{who} {short_name(e.plan)}": played
        for e in execution.executed
        for who, played in (("predicted", e.predicted), ("measured", e.measured))
        if played is not None
    }
    output.write_json("timeline.json", chrome_trace(runs))
    shown = [e for e in execution.executed if e.plan.num_stages > 1] or list(execution.executed)
    name = short_name(shown[-1].plan)
    pair = {label: played for label, played in runs.items() if label.split(" ", 1)[1] == name}
    output.write_figure("gantt.png", gantt(pair))
    inputs = {k: v for k, v in vars(args).items() if k not in ("argv", "command")}
    inputs |= {"output": str(args.output), "plan": args.plan and str(args.plan)}
    output.write_manifest(inputs, seed=args.seed)


def _row(executed: Executed) -> dict[str, Any]:
    return {
        "name": short_name(executed.plan),
        **executed.plan.to_json(),
        "predicted_s": executed.predicted.step_s if executed.predicted is not None else None,
        "measured_s": executed.measured.step_s,
        "error": executed.error,
        "spread": executed.spread,
        "samples_s": " ".join(f"{s:.6f}" for s in executed.samples_s),
        "loss_difference": executed.loss_difference,
    }


def _note(line: str) -> None:
    print(f"parplan: {line}", file=sys.stderr, flush=True)
