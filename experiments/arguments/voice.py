"""How a command speaks: `--json`, `--quiet`, `--verbose`, `--no-color`."""

import argparse
import json
import sys
from collections.abc import Iterable, Mapping
from typing import Any

from parplan.errors import printable
from parplan.experiments.output.terminal import Style

VOICE = ("json", "quiet", "no_color")
"""Arguments that say how a command prints, which functions in Python do not have."""


def add_voice_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments."""
    group = parser.add_argument_group("output")
    group.add_argument(
        "--json", action="store_true", help="print the result as JSON (docs/summary.md)"
    )
    group.add_argument(
        "-q", "--quiet", action="store_true", help="print the plan and its step, no more"
    )
    group.add_argument(
        "--no-color", action="store_true", help="no colours; NO_COLOR in the environment does too"
    )


def print_json(table: Mapping[str, Any]) -> None:
    """One JSON document on stdout."""
    json.dump(table, sys.stdout, indent=2, allow_nan=False)
    sys.stdout.write("\n")


def print_lines(lines: Iterable[str], style: Style, *, on_stderr: bool = False) -> None:
    """Lines for people, on stdout or beside something else that is printed there."""
    stream: Any = sys.stderr if on_stderr else sys.stdout
    write = stream.styled if style.colour else stream.write
    for line in lines:
        write(f"{line}\n")
    stream.flush()


def clean(value: Any) -> Any:
    """The same table without characters that a terminal obeys, in names of files for example."""
    if isinstance(value, dict):
        return {name: clean(item) for name, item in value.items()}
    if isinstance(value, list):
        return [clean(item) for item in value]
    return printable(value) if isinstance(value, str) else value
