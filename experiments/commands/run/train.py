"""`parplan train`: run a training script on all processes of this machine."""

import argparse
import sys
from pathlib import Path

from parplan.backend.require import require_torch
from parplan.backend.workers.train import train
from parplan.errors import ParplanError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `parplan train`."""
    parser.add_argument(
        "--processes", type=int, help="number of processes (default: one per GPU, two on a CPU)"
    )
    parser.add_argument(
        "--timeout-s",
        type=float,
        metavar="S",
        help="stop all processes when one has not answered for so many seconds (default 600)",
    )
    parser.add_argument(
        "--report",
        dest="run_folder",  # `report` is what other commands write of themselves
        metavar="FOLDER",
        help="where the script's plan, its steps and its timeline go (default parplan-run; 0 for "
        "none); parplan compare FOLDER reads them",
    )
    parser.add_argument(
        "--log-every",
        type=int,
        metavar="N",
        help="log the step time, tokens per second and (on GPUs) memory every N steps",
    )
    parser.add_argument(
        "script", type=Path, help="training script with the one line of docs/one-line.md"
    )
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="arguments of the script")


def run(args: argparse.Namespace) -> int:
    """Train until the script ends."""
    if args.timeout_s is not None and not args.timeout_s > 0:
        raise ParplanError(f"--timeout-s: must be above 0, got {args.timeout_s:g}")
    if args.log_every is not None and args.log_every < 0:
        raise ParplanError(f"--log-every: must not be negative, got {args.log_every}")
    processes = args.processes
    if processes is None:
        require_torch("training")
        from parplan.backend.calibration.this_machine import default_processes  # imports torch

        processes = default_processes()
    sys.stdout.flush()
    train(
        *(args.script, args.arguments, processes),
        timeout_s=args.timeout_s,
        report=args.run_folder,
        log_every=args.log_every,
    )
    return 0
