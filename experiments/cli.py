"""The command line: `parplan COMMAND ...`.

Exit code 0: done; 1: a run failed or nothing fits; 2: a mistake in what was given; 70: a mistake in
parplan; 130: interrupted. Each command is a module with `add_arguments(parser)` and `run(args) ->
int`, imported when it is asked for, so that planning starts fast.
"""

import argparse
import contextlib
import importlib
import importlib.util
import os
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from parplan.errors import ParplanError, RunFailedError, one_line
from parplan.experiments.arguments.needs import check_needs
from parplan.experiments.arguments.numbers import check_numbers, finite, whole
from parplan.experiments.help import (
    EXAMPLES,
    check_options,
    complete,
    completed_command,
    is_completing,
    near,
    version,
)
from parplan.experiments.output.folder import WITH_PICTURES
from parplan.experiments.terminal import (
    INTERNAL_ERROR,
    clean_output,
    close_output,
    internal_error,
    is_of_the_machine,
    said_by_the_machine,
)
from parplan.experiments.with_report import add_report_option, run_with_report, wants_report
from parplan.experiments.with_voice import add_voice_options, run_with_voice, take_voice

COMMANDS = {
    "plan": ("parplan.experiments.commands.predict.plan", "find the fastest parallel plan"),
    "compare-planners": (
        "parplan.experiments.commands.study.compare_planners",
        "compare planners on one space with its proven optimum",
    ),
    "simulate": ("parplan.experiments.commands.predict.simulate", "simulate one plan in detail"),
    "trace": (
        "parplan.experiments.commands.predict.trace",
        "find operations and memory of a model's layers",
    ),
    "train": ("parplan.experiments.commands.run.train", "run a training script with its best plan"),
    "dry-run": (
        "parplan.experiments.commands.run.dry_run",
        "run ranks of a large job without the hardware",
    ),
    "execute": (
        "parplan.experiments.commands.run.execute",
        "run plans on this machine and compare them with their predictions",
    ),
    "compare": (
        "parplan.experiments.commands.run.compare",
        "compare predicted and measured steps in detail",
    ),
    "export": (
        "parplan.experiments.commands.predict.export",
        "write a plan as the configuration of training software",
    ),
    "import": (
        "parplan.experiments.commands.predict.import_",
        "predict a launch of other software and suggest a faster plan",
    ),
    "calibrate": ("parplan.experiments.commands.run.calibrate", "measure this machine"),
    "validate": (
        "parplan.experiments.commands.study.validate",
        "compare predictions with published runs, or fit to your own",
    ),
    "report": (
        "parplan.experiments.commands.predict.report",
        "show an output folder as one HTML page",
    ),
    "explore": (
        "parplan.experiments.commands.predict.explore",
        "show the candidates of a search in the browser",
    ),
    "reproduce": (
        "parplan.experiments.commands.study.reproduce",
        "reproduce tables and figures of publications",
    ),
    "landscape": (
        "parplan.experiments.commands.predict.landscape",
        "plot a metric over fields of plan, workload or machine",
    ),
    "scale": (
        "parplan.experiments.commands.predict.scale",
        "find the best plan at each cluster size",
    ),
    "models": ("parplan.experiments.commands.study.models", "list models that are known by name"),
    "hardware": ("parplan.experiments.commands.study.hardware", "show accelerators and clusters"),
    "benchmark": (
        "parplan.experiments.commands.study.benchmark",
        "time the simulator on this machine",
    ),
    "demo": (
        "parplan.experiments.commands.run.demo",
        "plan a large model; plan and run a small one",
    ),
    "completion": (
        "parplan.experiments.commands.completion",
        "print what makes a shell complete commands and options",
    ),
}


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # For every number of every command, in groups of arguments as well.
        self.register("type", int, whole)
        self.register("type", float, finite)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {one_line(message)} (see {self.prog} --help)\n")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            kind = "command" if isinstance(action, argparse._SubParsersAction) else "value"
            known = [str(choice) for choice in action.choices]
            raise argparse.ArgumentError(action, near(kind, str(value), known))


def make_parser(command: str | None = None) -> argparse.ArgumentParser:
    """The parser, with the arguments of `command` alone."""
    parser = _Parser(
        prog="parplan",
        description="Find the fastest parallel plan for training a model, and check it.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"parplan {version()}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, (module, summary) in COMMANDS.items():
        sub = commands.add_parser(name, help=summary, description=summary[0].upper() + summary[1:])
        if name == command:
            importlib.import_module(module).add_arguments(sub)
            add_report_option(sub)
            add_voice_options(sub, name)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    argv = sys.argv[1:] if argv is None else list(argv)
    with clean_output():
        try:
            _set_up_figures()
            code = _run(argv)
            sys.stdout.flush()
            return code
        except RunFailedError as error:
            return _fail(f"failed: {error}", 1)
        except ParplanError as error:
            return _fail(f"error: {error}", 2)
        except KeyboardInterrupt:
            return _fail("interrupted", 130)
        except BrokenPipeError:
            close_output()
            return 1
        except OSError as error:
            if not is_of_the_machine(error):
                return _fail(internal_error(error, argv), INTERNAL_ERROR)
            return _fail(f"error: {said_by_the_machine(error)}", 2)
        except MemoryError:
            return _fail("failed: out of memory", 1)
        except Exception as error:
            return _fail(internal_error(error, argv), INTERNAL_ERROR)


def _run(argv: list[str]) -> int:
    if is_completing():
        complete(make_parser(completed_command()))
    if not argv:
        make_parser().print_help()
        return 0
    parser = make_parser(argv[0])
    args, unknown = parser.parse_known_args(argv)
    own = _command_parser(parser, args.command)
    check_options(own, unknown)
    check_numbers(args)
    check_needs(own, args)
    _find_own_modules(args)
    args.argv = argv
    voice = take_voice(args)
    command = importlib.import_module(COMMANDS[args.command][0]).run
    if wants_report(args):
        command = partial(run_with_report, command)
    token = WITH_PICTURES.set(not getattr(args, "no_pictures", False))
    try:
        return int(run_with_voice(command, args, voice))
    finally:
        WITH_PICTURES.reset(token)


def _command_parser(parser: argparse.ArgumentParser, command: str) -> argparse.ArgumentParser:
    commands = next(a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
    found: argparse.ArgumentParser = commands.choices[command]
    return found


def _find_own_modules(args: argparse.Namespace) -> None:
    """`--planner mine:f` finds `mine.py` in the current folder."""
    planners = getattr(args, "planner", None) or getattr(args, "planners", None)
    if ":" in str(planners or "") and os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())


def _set_up_figures() -> None:
    """Draw the same whatever matplotlib is set up for here: a notebook, a folder's matplotlibrc."""
    if "matplotlib" in sys.modules:
        return
    os.environ["MPLBACKEND"] = "agg"
    found = importlib.util.find_spec("matplotlib")
    if found is not None and found.origin is not None:
        own = Path(found.origin).parent / "mpl-data" / "matplotlibrc"
        if own.is_file():
            os.environ["MATPLOTLIBRC"] = str(own)


def _fail(message: str, code: int) -> int:
    with contextlib.suppress(ParplanError, BrokenPipeError):
        sys.stderr.write(f"parplan: {one_line(message)}\n")
    with contextlib.suppress(BrokenPipeError):
        try:
            sys.stdout.flush()
        except ParplanError:
            close_output()
    return code
