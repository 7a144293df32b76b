"""`parplan import`: predict a launch of other software and suggest a faster plan."""

import argparse
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from parplan._strict import read_text
from parplan.errors import ParplanError
from parplan.experiments.arguments.money import add_money_arguments, training_line
from parplan.experiments.arguments.numbers import count
from parplan.experiments.arguments.workload import (
    add_software_argument,
    requested_cluster,
)
from parplan.experiments.cases.own.machine_factors import setting_named
from parplan.experiments.interop.gap import Explanation, MeasuredSpeed, explanations, gap_lines
from parplan.experiments.interop.importers.imported import Given, finished
from parplan.experiments.interop.reading.sources import SOURCES
from parplan.experiments.output.folder import OutputFolder
from parplan.experiments.output.progress import ProgressLine
from parplan.experiments.planning.explain import PlanChoice, past_accuracy
from parplan.experiments.planning.files import write_plan
from parplan.experiments.planning.summary import memory_of, predicted_of
from parplan.experiments.planning.summary_text import memory_text, speed_text, step_text
from parplan.hardware.network.cluster import Cluster
from parplan.planners.costs.trial import Trial
from parplan.planners.explain.faster_neighbours import Better, better_plans
from parplan.planners.explain.plan_words import plan_words
from parplan.planners.explain.why import plan_label
from parplan.sim.analysis.residuals import read_residuals
from parplan.sim.memory.peak import GB
from parplan.sim.models.find import find_model
from parplan.sim.plan import Plan, full_name
from parplan.sim.prediction.predict import compile_plan, predict
from parplan.sim.run import Run
from parplan.sim.software.framework import ON_MEASURED, framework
from parplan.sim.workload import Workload

MOST_TEXT = 4_000_000

SCRIPTS = (
    *("megatron", "transformers", "llama-factory", "torchtitan"),
    *("megatron-bridge", "nemo", "maxtext"),
)
"""Sources whose launches have variables, or a choice of configurations."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `parplan import`."""
    parser.add_argument("file", help="launch script, JSON, TOML or YAML; - reads stdin")
    parser.add_argument(
        "--from",
        dest="source",
        choices=tuple(SOURCES),
        required=True,
        help="software that the file is for",
    )
    parser.add_argument("--cluster", required=True, help="cluster, as in parplan plan")
    parser.add_argument("--model", help="model, if the file does not describe it")
    parser.add_argument(
        "--seq-len", type=count, help="sequence length in tokens, if not in the file"
    )
    parser.add_argument("--global-batch", type=count, help="sequences per step, if not in the file")
    add_money_arguments(parser.add_argument_group("training"))
    parser.add_argument(
        "--micro-batch", type=int, help="sequences per micro-batch, if not in the file"
    )
    parser.add_argument("--vocab-size", type=int, help="vocabulary size, if not in the file")
    parser.add_argument(
        "--set",
        nargs="+",
        action="extend",
        default=[],
        metavar="FIELD=VALUE",
        help="plan fields that the training program sets itself, for example recomputation=full",
    )
    parser.add_argument(
        "--strict",
        action="store_true",
        help="refuse a file with settings that are not understood",
    )
    parser.add_argument(
        "--variable",
        nargs="+",
        action="extend",
        default=[],
        metavar="NAME=VALUE",
        help="values of shell variables that the launch script does not set",
    )
    add_software_argument(parser)
    parser.add_argument(
        "--memory-ratio",
        type=float,
        default=80.0,
        metavar="PERCENT",
        help="share of each device's memory that a better plan may use (default %(default)s)",
    )
    measured = "of a step that was measured: says where it lies, and what its gap may be"
    parser.add_argument("--measured-step", type=float, metavar="SECONDS", help=f"time {measured}")
    parser.add_argument("--measured-mfu", type=float, metavar="PERCENT", help=f"MFU {measured}")
    parser.add_argument(
        "--measured-tokens-per-s", type=float, metavar="N", help=f"tokens per second {measured}"
    )
    parser.add_argument("-o", "--output", type=Path, default=Path("out/import"))


class ImportedLaunch(NamedTuple):
    """A launch of other software, predicted, and the plans near it that are better."""

    plan: Plan
    workload: Workload
    cluster: Cluster
    run: Run
    memory_bytes: tuple[float, ...]
    """Peak of each pipeline rank."""
    better: tuple[Better, ...]
    """The nearest plan that is better first, the fastest last."""
    tried: int
    """Other plans that were tried."""
    notes: tuple[str, ...]
    """What was understood otherwise, or not at all: `setting: what became of it`."""
    no_effect: dict[str, str]
    """Settings without effect on the time or the memory of a step, and why."""
    not_understood: tuple[str, ...]
    """Settings that are not known or not modelled."""
    measured_s: float | None = None
    """A step that was measured."""
    explanations: tuple[Explanation, ...] = ()
    """Single changes in the model that bring the prediction nearer to it, the nearest first."""

    @property
    def step_s(self) -> float:
        """Seconds of a step of the present plan."""
        return self.run.step_s

    @property
    def fits(self) -> bool:
        """Whether the present plan fits in memory."""
        return max(self.memory_bytes) <= self.cluster.accelerator.memory_bytes

    @property
    def trial(self) -> Trial:
        """The present plan as a trial."""
        return Trial(plan=self.plan, memory_bytes=self.memory_bytes, step_s=self.run.step_s)

    def __str__(self) -> str:
        present = list(_present(self.trial, self.workload, self.cluster, self.run))
        if self.not_understood:
            names = ", ".join(self.not_understood)
            head = f"of a launch that was only partly understood (not understood: {names}):"
            present = [head, *present]
        if self.measured_s is not None:
            present += gap_lines(
                self.workload,
                self.cluster,
                self.plan,
                self.step_s,
                self.measured_s,
                read_residuals(),
                self.explanations,
            )
        return "\n".join([*present, *_better(self.better, self.tried, self.step_s, self.fits)])


def _stdin() -> str:
    """The text on standard input; raises `ParplanError` where it is closed, or no text."""
    try:
        if sys.stdin is None or sys.stdin.closed:
            raise ParplanError("stdin: is closed")
        return sys.stdin.read(MOST_TEXT + 1)
    except UnicodeDecodeError:
        raise ParplanError("stdin: not UTF-8 text") from None
    except OSError as error:
        raise ParplanError(f"stdin: cannot be read: {error.strerror}") from None


def run(args: argparse.Namespace) -> int:
    """Read, predict, look for better plans, say and write."""
    cluster = requested_cluster(args.cluster, software=args.software)
    where = "stdin" if args.file == "-" else args.file
    text = _stdin() if args.file == "-" else read_text(Path(args.file))
    found = imported(args, text, where, cluster)
    output = OutputFolder(args.output, args.argv)
    for line in found.notes:
        print(f"parplan: {line}", file=sys.stderr)
    if found.no_effect:
        print(f"parplan: no effect on time or memory: {_grouped(found)}", file=sys.stderr)
    print(found)
    for line in _training(args, found):
        print(line)
    _write(output, found)
    output.write_manifest({"file": where, "from": args.source, "cluster": cluster.name})
    print(f"parplan: results: {output.path}/ ({', '.join(sorted(output.files))})", file=sys.stderr)
    return 0


def _training(args: argparse.Namespace, found: ImportedLaunch) -> Iterator[str]:
    """Days and money of the present plan and of the fastest one, where these are asked for."""
    tokens, devices = found.workload.tokens, found.cluster.num_accelerators
    line = training_line(args, devices, tokens / found.step_s)
    if line:
        yield f"training with the present plan: {line}"
    fastest_s = found.better[-1].trial.step_s if found.better else None
    if line and fastest_s:
        line = training_line(args, devices, tokens / fastest_s)
        yield f"training with the fastest plan: {line}"


def imported(args: argparse.Namespace, text: str, where: str, cluster: Cluster) -> ImportedLaunch:
    """The launch that `text` describes, predicted on `cluster`; `where` begins errors.

    Raises `ParplanError` for what cannot be read, is missing, or does not divide.
    """
    if not 0 < args.memory_ratio <= 100:
        raise ParplanError(f"--memory-ratio: above 0 and at most 100, got {args.memory_ratio}")
    if len(text) > MOST_TEXT:
        raise ParplanError(f"{where}: longer than the {MOST_TEXT} characters of a launch")
    given, fields = _given(args, cluster)
    settings = SOURCES[args.source](text, where, given)
    if args.strict and settings.not_understood:
        raise ParplanError(
            f"{where}: --strict: not understood: {', '.join(settings.not_understood)}"
        )
    if args.software:
        settings.workload |= setting_named(args.software).fields
    elif cluster.measured is not None:
        settings.workload["framework"] = framework(ON_MEASURED)
    plan, workload = finished(settings, given, fields, where)
    compiled = compile_plan(workload, cluster, plan)
    played = predict(compiled)
    memory = tuple(rank.total_bytes for rank in compiled.memory)
    better, tried = better_plans(
        workload,
        cluster,
        plan,
        played.step_s if max(memory) <= cluster.accelerator.memory_bytes else math.inf,
        memory_ratio=args.memory_ratio / 100,
        progress=ProgressLine(),
    )
    measured = MeasuredSpeed(
        step_s=args.measured_step, mfu=args.measured_mfu, tokens_per_s=args.measured_tokens_per_s
    )
    measured_s = measured.seconds(workload, cluster)
    why = (
        ()
        if measured_s is None
        else explanations(workload, cluster, plan, played.step_s, measured_s)
    )
    return ImportedLaunch(
        plan,
        workload,
        cluster,
        played,
        memory,
        better,
        tried,
        tuple(settings.notes),
        dict(settings.no_effect),
        tuple(settings.not_understood),
        measured_s,
        why,
    )


def _write(output: OutputFolder, found: ImportedLaunch) -> None:
    trial, step_s = found.trial, found.step_s
    choice = PlanChoice(
        workload=found.workload, cluster=found.cluster, best=trial, trials=(), memory_ratio=0.8
    )
    accuracy = past_accuracy(choice, read_residuals(), step_s)
    write_plan(output, found.workload, found.cluster, trial, accuracy)
    output.write_csv("better.csv", [_row(b, step_s) for b in found.better] or [_none()])
    if found.measured_s is not None:
        output.write_csv("gap.csv", [_explained(found, e) for e in found.explanations] or [_none()])
    output.write_csv("notes.csv", _notes(found) or [_note(": ")])


def _given(args: argparse.Namespace, cluster: Cluster) -> tuple[Given, dict[str, str]]:
    """Settings given beside the file, and the plan fields that `--set` sets.

    Other names of `--set` are variables of the launch script.
    """
    said = _pairs("--set", args.set)
    fields = {
        name: value
        for name, value in said.items()
        if name in Plan.__dataclass_fields__ or args.source not in SCRIPTS
    }
    variables = {name: value for name, value in said.items() if name not in fields}
    for name in ("seq_len", "global_batch", "micro_batch", "vocab_size"):
        value = getattr(args, name)
        if value is not None and value < 1:
            raise ParplanError(f"--{name.replace('_', '-')}: must be at least 1, got {value}")
    return Given(
        devices=cluster.num_accelerators,
        model=None if args.model is None else find_model(args.model),
        seq_len=args.seq_len,
        global_batch=args.global_batch,
        micro_batch=args.micro_batch,
        vocab_size=args.vocab_size,
        variables=variables | _pairs("--variable", args.variable),
    ), fields


def _pairs(option: str, words: list[str]) -> dict[str, str]:
    found = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or not name:
            raise ParplanError(f"{option}: {word!r} is not NAME=VALUE")
        found[full_name(name)] = value
    return found


def _present(trial: Trial, workload: Workload, cluster: Cluster, played: Run) -> Iterator[str]:
    choice = PlanChoice(workload=workload, cluster=cluster, best=trial, trials=(), memory_ratio=0.8)
    predicted = predicted_of(choice, read_residuals(), played)
    yield f"present plan: {plan_words(trial.plan)}"
    yield f"predicted step {step_text(predicted)}; {speed_text(predicted)}"
    yield f"memory: {memory_text(memory_of(choice))}"


def _better(better: tuple[Better, ...], tried: int, step_s: float, fits: bool) -> Iterator[str]:
    what = "better plan" if fits else "plan that fits"
    if not better:
        yield f"none of {tried} other plans {'is faster' if fits else 'fits'}"
        return
    yield f"nearest {what}: {_said(better[0], step_s)}"
    if len(better) > 1:
        yield f"fastest of {tried} plans: {_said(better[-1], step_s)}"


def _said(found: Better, step_s: float) -> str:
    own_s = found.trial.step_s or step_s
    change = own_s / step_s - 1
    return (
        f"{found.words}: {own_s:.3f} s, {abs(change):.1%} {'longer' if change > 0 else 'shorter'}"
    )


def _row(found: Better, step_s: float) -> dict[str, str]:
    own_s = found.trial.step_s or step_s
    return {
        "changes": str(len(found.changes)),
        "what": found.words,
        "plan": plan_label(found.trial.plan),
        "step_s": repr(own_s),
        "shorter_percent": f"{100 * (1 - own_s / step_s):.3f}",
        "peak_gb": f"{max(found.trial.memory_bytes) / GB:.3f}",
    }


def _explained(found: ImportedLaunch, one: Explanation) -> dict[str, str]:
    left = one.left(found.step_s, found.measured_s or found.step_s)
    return {
        "cause": one.cause,
        "change": one.change,
        "step_s": repr(one.step_s),
        "gap_left_percent": f"{100 * left:.3f}",
    }


def _none() -> dict[str, str]:
    names = ("changes", "what", "plan", "step_s", "shorter_percent", "peak_gb")
    return dict.fromkeys(names, "")


def _grouped(settings: ImportedLaunch) -> str:
    """The settings without effect, by why they have none."""
    by_reason: dict[str, list[str]] = {}
    for name, reason in settings.no_effect.items():
        by_reason.setdefault(reason, []).append(name)
    return "; ".join(f"{' '.join(names)} ({reason})" for reason, names in by_reason.items())


def _notes(settings: ImportedLaunch) -> list[dict[str, str]]:
    """The rows of notes.csv: each setting, and what became of it."""
    rows = [_note(line) for line in settings.notes]
    return rows + [
        {"setting": name, "what": f"no effect: {reason}"}
        for name, reason in settings.no_effect.items()
    ]


def _note(line: str) -> dict[str, str]:
    setting, _, what = line.partition(": ")
    return {"setting": setting, "what": what}
