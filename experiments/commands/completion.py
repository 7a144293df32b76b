"""`parplan completion`: what makes a shell complete the words of parplan."""

import argparse

from parplan.experiments.help import SHELLS, completion_script


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `parplan completion`."""
    parser.add_argument(
        "shell",
        choices=SHELLS,
        help="prints lines for its start-up file, as in: parplan completion bash >> ~/.bashrc",
    )


def run(args: argparse.Namespace) -> int:
    """Print the script."""
    print(completion_script(args.shell))
    return 0
