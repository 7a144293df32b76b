"""`parplan simulate`: simulate one plan in detail, or a collective."""

import argparse
import dataclasses
import pickle
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from parplan._strict import read_text
from parplan.errors import ParplanError, short
from parplan.experiments.accuracy.measured_trace import (
    MeasuredTrace,
    comparison_rows,
    of_the_plan,
    read_trace,
    with_measured,
)
from parplan.experiments.arguments.money import add_money_arguments, training_line
from parplan.experiments.arguments.numbers import finite, whole
from parplan.experiments.arguments.workload import add_software_argument, requested_cluster
from parplan.experiments.cases.own.machine_factors import setting_named
from parplan.experiments.commands.predict.simulate_collective import (
    add_collective_arguments,
    check_collective_arguments,
    run_collective,
)
from parplan.experiments.commands.predict.simulate_extras import add_extra_arguments, extras_of
from parplan.experiments.figures.gantt import gantt
from parplan.experiments.figures.memory import memory_figure
from parplan.experiments.output.folder import OutputFolder
from parplan.hardware.network.cluster import Cluster
from parplan.sim.analysis.bubble import bubble_by_cause
from parplan.sim.analysis.critical_path import Causes, critical_path, sensitivities
from parplan.sim.analysis.predicted_timeline import predicted_timeline
from parplan.sim.analysis.streams import with_streams
from parplan.sim.analysis.time_split import action_causes
from parplan.sim.cluster.whole_cluster import simulate_cluster
from parplan.sim.cost_model.stage_costs import message_bytes
from parplan.sim.memory.moments import moments_of
from parplan.sim.memory.over_time import MemoryOverTime, memory_over_time
from parplan.sim.memory.peak import GB, rank_memory, stage_needs
from parplan.sim.memory.snapshot import memory_snapshot
from parplan.sim.memory.verdict import Verdict, share_words, verdict_on
from parplan.sim.plan import Plan
from parplan.sim.plan_file import read_plan
from parplan.sim.prediction.predict import CompiledPlan, compile_plan, predict
from parplan.sim.programs.instructions import (
    Program,
    read_program,
    without_communication,
    write_csv,
)
from parplan.sim.programs.validate import check_program
from parplan.sim.run import Run
from parplan.sim.schedules import schedule_kind
from parplan.sim.workload import Workload

FASTER = 0.1
MOST_GAINING = 6


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `parplan simulate`."""
    parser.add_argument("plan", type=Path, nargs="?", help="plan.json, as written by parplan plan")
    parser.add_argument(
        "--cluster", help="a cluster other than the plan's own, or that of --collective"
    )
    add_software_argument(parser)
    parser.add_argument(
        "--schedule",
        type=Path,
        help="CSV of instruction lists, one row per pipeline rank (0F0,1F0,0B0, ...)",
    )
    parser.add_argument(
        "--fragmented-share",
        type=float,
        default=0.0,
        help="allocator fragmentation as a share of activations and messages (default 0)",
    )
    parser.add_argument(
        "--slow",
        nargs="+",
        action="extend",
        default=[],
        metavar="RANK=FACTOR",
        help="simulate all replicas with slow ranks of the cluster: 5=1.5 makes rank 5 compute 1.5 "
        "times as long",
    )
    add_extra_arguments(parser)
    add_money_arguments(parser.add_argument_group("training"))
    add_collective_arguments(parser)
    parser.add_argument(
        "--memory-snapshot",
        action="store_true",
        help="also write memory_snapshot.pickle for pytorch.org/memory_viz, one device per "
        "pipeline rank",
    )
    parser.add_argument(
        "--measured",
        nargs="+",
        type=Path,
        default=[],
        metavar="TRACE",
        help="traces of torch.profiler, one per rank, to compare with the prediction",
    )
    parser.add_argument(
        "--measured-step", type=int, help="the ProfilerStep to compare (default: the last)"
    )
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        default=Path("out/simulate"),
        help="output folder (default %(default)s)",
    )


def run(args: argparse.Namespace) -> int:
    """Simulate, print a summary, write."""
    check_collective_arguments(args)
    if args.collective is not None:
        return run_collective(args)
    slowdown, extras = _slowdown(args.slow), extras_of(args)
    plan, workload, planned_for = read_plan(args.plan)
    cluster = requested_cluster(args.cluster or planned_for, software=args.software)
    if args.software is not None:
        workload = dataclasses.replace(workload, **setting_named(args.software).fields)
    compiled = compile_plan(workload, cluster, plan)
    if args.schedule is not None:
        compiled = with_schedule(compiled, workload, args.schedule)
    measured = [
        of_the_plan(read_trace(path, args.measured_step, number), plan.num_devices, path)
        for number, path in enumerate(args.measured)
    ]
    output = OutputFolder(args.output, args.argv)
    result = predict(compiled)
    memory = memory_of(compiled, workload, result, args.fragmented_share)
    slow = [stragglers(compiled, result, slowdown)] if slowdown else []
    lines = [summary(compiled, result, memory), *verdict_lines(memory, cluster), *slow]
    lines += extras.lines(compiled, cluster, result)
    rate = workload.tokens / result.step_s
    training = training_line(args, cluster.num_accelerators, rate)
    print("\n".join([*lines, *([f"training: {training}"] if training else [])]))
    output.write_text("schedule.csv", write_csv(compiled.schedule))
    trace = predicted_timeline(workload, cluster, compiled, result)
    output.write_trace(with_measured(trace, result.num_ranks, measured))
    if measured:
        _write_comparison(output, result, measured)
    if args.memory_snapshot:
        output.write_bytes("memory_snapshot.pickle", pickle.dumps(memory_snapshot(memory, result)))
    detailed = with_streams(result, workload, cluster, compiled.plan)
    output.write_figure("gantt.png", lambda: gantt({"predicted": detailed}))
    _write_memory(output, memory, result, limit_bytes=cluster.accelerator.memory_bytes)
    _write_causes(output, compiled, result, action_causes(workload, cluster, compiled))
    inputs = {"plan": str(args.plan), "cluster": cluster.name, "schedule": str(args.schedule)}
    output.write_manifest(inputs)
    print(f"parplan: results: {output.path}/ ({', '.join(sorted(output.files))})", file=sys.stderr)
    return 0


def memory_of(
    compiled: CompiledPlan, workload: Workload, result: Run, fragmented_share: float = 0.0
) -> tuple[MemoryOverTime, ...]:
    """The memory of each rank over the step."""
    return tuple(
        memory_over_time(
            compiled.schedule,
            stage_needs(workload, compiled.plan),
            result,
            message_bytes=message_bytes(workload, compiled.plan),
            fragmented_share=fragmented_share,
        )
    )


def _write_comparison(output: OutputFolder, result: Run, measured: Sequence[MeasuredTrace]) -> None:
    rows = comparison_rows(result, measured)
    output.write_csv("measured.csv", rows)
    for row in rows:
        print(
            f"measured rank {row['rank']}, {row['step']}: {row['measured_step_s']} s, predicted "
            f"{row['error_percent']} % off; computes {row['measured_compute_s']} s, communicates "
            f"{row['measured_communication_s']} s ({row['measured_exposed_s']} s alone)"
        )


def _slowdown(given: Sequence[str]) -> dict[int, float]:
    slowdown: dict[int, float] = {}
    for text in given:
        word, _, factor = text.partition("=")
        try:
            rank, times = whole(word), finite(factor)
        except argparse.ArgumentTypeError:
            what = short(text)
            raise ParplanError(f"--slow: {what} is not RANK=FACTOR, such as 5=1.5") from None
        if slowdown.setdefault(rank, times) != times:
            raise ParplanError(f"--slow: rank {rank} is given twice")
    return slowdown


def stragglers(compiled: CompiledPlan, result: Run, slowdown: Mapping[int, float]) -> str:
    """Extra time of the step when some ranks are slower."""
    cluster = simulate_cluster(compiled, slowdown=slowdown)
    ranks = ", ".join(f"{rank} x {factor:g}" for rank, factor in slowdown.items())
    longer = cluster.step_s - result.step_s
    return (
        f"with slow ranks ({ranks} of {cluster.num_ranks}): step {cluster.step_s:.4g} s, "
        f"{longer:.4g} s ({longer / result.step_s:.1%}) longer"
    )


def with_schedule(compiled: CompiledPlan, workload: Workload, path: Path) -> CompiledPlan:
    """The same plan with the instruction lists of a file."""
    schedule = _read_schedule(path, compiled.plan)
    memory = rank_memory(stage_needs(workload, compiled.plan), moments_of(schedule))
    return dataclasses.replace(compiled, schedule=schedule, memory=memory)


def _read_schedule(path: Path, plan: Plan) -> Program:
    program = read_program(read_text(path), str(path))
    if len(program) != plan.num_stages:
        raise ParplanError(
            f"{path}: {len(program)} rows, but the plan has num_stages {plan.num_stages}"
        )
    try:
        two_copies = not schedule_kind(plan.schedule).one_copy
        check_program(program, plan.total_stages, plan.num_micro_batches, bidirectional=two_copies)
    except ParplanError as error:
        raise ParplanError(f"{path}: {error}") from None
    return without_communication(program)


def summary(compiled: CompiledPlan, result: Run, memory: Sequence[MemoryOverTime]) -> str:
    """Step, bubble by cause, each rank's busy time and memory, and what would shorten the step."""
    causes = bubble_by_cause(compiled.schedule, result)
    shares = [f"{name.replace('_', ' ')} {share:.1%}" for name, share in causes.items() if share]
    lines = [f"step {result.step_s:.4g} s, bubble {result.bubble:.1%}"]
    lines[0] += f" ({', '.join(shares)})" if shares else ""
    lines += [
        f"rank {m.rank}: computes {result.busy_s(m.rank):.4g} s; "
        f"peak {m.peak_bytes / GB:.1f} GB at {m.peak_s:.4g} s ({m.state})"
        for m in memory
    ]
    return "\n".join(lines)


def memory_verdict(memory: Sequence[MemoryOverTime], cluster: Cluster) -> Verdict:
    """Whether the fullest rank fits on its device, with what is known of the allocator."""
    made = [(m.state.state_bytes, m.activation_bytes + m.message_bytes) for m in memory]
    return verdict_on(max(state + float(held.max()) for state, held in made), cluster.accelerator)


def verdict_lines(memory: Sequence[MemoryOverTime], cluster: Cluster) -> list[str]:
    """A line where the memory of the fullest rank may be too little, or is."""
    verdict = memory_verdict(memory, cluster)
    if verdict == "fits":
        return []
    peak = max(m.peak_bytes for m in memory)
    return [f"memory: {verdict}: {share_words(peak, cluster.accelerator)}"]


def _write_memory(
    output: OutputFolder, memory: Sequence[MemoryOverTime], result: Run, limit_bytes: float
) -> None:
    rows = [
        {
            "rank": m.rank,
            "time_s": repr(float(time_s)),
            "activation_bytes": f"{activations:.0f}",
            "message_bytes": f"{messages:.0f}",
            "total_bytes": f"{total:.0f}",
        }
        for m in memory
        for time_s, activations, messages, total in zip(
            m.times_s, m.activation_bytes, m.message_bytes, m.total_bytes, strict=True
        )
    ]
    output.write_csv("memory.csv", rows)
    output.write_figure("memory.png", lambda: memory_figure(memory, result.step_s, limit_bytes))


def _write_causes(
    output: OutputFolder, compiled: CompiledPlan, result: Run, causes: Causes
) -> None:
    path = critical_path(compiled.schedule, compiled.costs, result)
    output.write_csv("critical_path.csv", [link._asdict() for link in path])
    found = sensitivities(compiled.schedule, compiled.costs, result, FASTER, causes)
    output.write_csv("sensitivity.csv", [dataclasses.asdict(row) for row in found])
    print(f"seconds gained if a resource were {FASTER:.0%} faster, or free:")
    for row in found[:MOST_GAINING]:
        where = "" if row.stage is None else f" of stage {row.stage}"
        print(
            f"  {row.resource}{where}: {row.gain_s:.4g} s, {row.gain_if_free_s:.4g} s "
            f"(critical path: {row.on_path_s:.4g} s)"
        )
