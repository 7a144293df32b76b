"""The command line: `parplan COMMAND ...`. Exit code 0: done; 1: a run failed or nothing fits;
2: a mistake in what was given; 130: interrupted.

Each command is a module with `add_arguments(parser)` and `run(args) -> int`, imported when it is
asked for, so that planning starts fast.
"""

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from parplan.errors import ParplanError, RunFailedError
from parplan.experiments.report_option import add_report_option, run_with_report, wants_report

COMMANDS = {
    "plan": ("parplan.experiments.plan_command", "find the fastest parallel plan"),
    "compare-planners": (
        "parplan.experiments.compare_planners_command",
        "let planners search the same space, and compare them with the proven optimum",
    ),
    "simulate": ("parplan.experiments.simulate_command", "play one plan in the simulator"),
    "trace": ("parplan.experiments.trace_command", "find what a model's layers need"),
    "train": ("parplan.experiments.train_command", "run a training script on all processes"),
    "dry-run": (
        "parplan.experiments.dry_run_command",
        "play ranks of a large job without the hardware",
    ),
    "execute": ("parplan.experiments.execute_command", "run plans here, compare with prediction"),
    "compare": ("parplan.experiments.compare_command", "predicted against measured, in detail"),
    "export": (
        "parplan.experiments.export_command",
        "write a plan as the configuration of the software that trains",
    ),
    "import": (
        "parplan.experiments.import_command",
        "predict a launch of other software, and find a faster plan near it",
    ),
    "calibrate": ("parplan.experiments.calibrate_command", "measure this machine"),
    "validate": ("parplan.experiments.validate_command", "predict what others measured"),
    "report": ("parplan.experiments.report_command", "show an output folder as one page of HTML"),
    "reproduce": (
        "parplan.experiments.reproduce_command",
        "predict what publications measured, with their tables and figures",
    ),
    "landscape": (
        "parplan.experiments.landscape_command",
        "show a metric over any fields of plan, workload or machine",
    ),
    "scale": (
        "parplan.experiments.scale_command",
        "find the best plan at each size, and where efficiency is lost",
    ),
    "hardware": ("parplan.experiments.hardware_command", "show accelerators and clusters"),
    "benchmark": ("parplan.experiments.benchmark_command", "time the simulator on this machine"),
    "demo": ("parplan.experiments.demo_command", "plan a large model; plan and run a small one"),
}


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {_in_one_line(message)} (see {self.prog} --help)\n")


def make_parser(command: str | None = None) -> argparse.ArgumentParser:
    """The parser, with the arguments of `command` alone."""
    parser = _Parser(
        prog="parplan",
        description="Find the fastest parallel plan for training a model, and check it.",
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, (module, summary) in COMMANDS.items():
        sub = commands.add_parser(name, help=summary, description=summary[0].upper() + summary[1:])
        if name == command:
            importlib.import_module(module).add_arguments(sub)
            add_report_option(sub)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    argv = sys.argv[1:] if argv is None else list(argv)
    try:
        args = make_parser(argv[0] if argv else None).parse_args(argv)
        args.argv = argv
        command = importlib.import_module(COMMANDS[args.command][0]).run
        return int(run_with_report(command, args) if wants_report(args) else command(args))
    except RunFailedError as error:
        return _fail(f"failed: {error}", 1)
    except ParplanError as error:
        return _fail(f"error: {error}", 2)
    except KeyboardInterrupt:
        return _fail("interrupted", 130)
    except BrokenPipeError:
        # The reader of our output has gone; what is still buffered has nowhere to go.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _fail(message: str, code: int) -> int:
    print(f"parplan: {_in_one_line(message)}", file=sys.stderr)
    return code


def _in_one_line(message: str) -> str:
    """What was given may hold line breaks, and characters that a terminal obeys."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in message)
