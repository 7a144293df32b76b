"""`--json`, `--quiet`, `--verbose`, `--no-color` of the commands that have none of their own."""

import argparse
import contextlib
import csv
import io
import math
import platform
import re
import resource
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from parplan._files import is_file
from parplan._strict import read_json, read_text
from parplan.experiments.arguments.voice import clean, print_json
from parplan.experiments.help import every_parser, version
from parplan.experiments.output.folder import MANIFEST, TIMELINE
from parplan.experiments.output.tables import PRINTED
from parplan.experiments.output.terminal import WITH_COLOUR

SCHEMA = "parplan.command/1"

STREAMING = ("completion", "explore", "train")
"""Commands whose output is no result, or is wanted while they run: they have no `--json`."""

MAX_BYTES = 20 * 2**20
"""Larger files of a folder are named, not printed."""

PROGRESS = re.compile(r"parplan: .*: \d+ of \d+")

PREFIX = "voice_"
"""Of the attributes that hold these options, so that no command takes them for inputs."""


class Voice(NamedTuple):
    """How a command is to speak."""

    json: bool = False
    quiet: bool = False
    verbose: bool = False
    no_color: bool = False


OPTIONS = {
    "json": (("--json",), "print what was found as JSON, tables of the folder too"),
    "quiet": (("-q", "--quiet"), "print the result alone: no notes, no progress"),
    "verbose": (("-v", "--verbose"), "also print time, memory and versions"),
    "no_color": (("--no-color",), "no colours; NO_COLOR in the environment does too"),
}


def add_voice_options(parser: argparse.ArgumentParser, command: str) -> None:
    """The options that the parser of a command, and those of its actions, do not have yet."""
    for one in every_parser(parser):
        group = one.add_argument_group("how it is printed")
        for name, (words, text) in OPTIONS.items():
            if name == "json" and command in STREAMING:
                continue
            free = [word for word in words if word not in one._option_string_actions]
            if words[-1] in free:
                group.add_argument(
                    *free,
                    dest=PREFIX + name,
                    action="store_true",
                    default=argparse.SUPPRESS,
                    help=text,
                )


def take_voice(args: argparse.Namespace) -> Voice:
    """What was asked for; it is taken out of the arguments, which become inputs of results."""
    found = {}
    for name in OPTIONS:
        found[name] = bool(vars(args).pop(PREFIX + name, False))
    return Voice(**found)


def run_with_voice(
    command: Callable[[argparse.Namespace], int], args: argparse.Namespace, voice: Voice
) -> int:
    """Run a command, and print as it was asked."""
    colour = not (voice.no_color or getattr(args, "no_color", False))
    token = WITH_COLOUR.set(colour)
    start_s = time.perf_counter()
    try:
        with _held_notes(voice) as held:
            code = _as_json(command, args) if voice.json else command(args)
            if code:
                held.release()
    finally:
        WITH_COLOUR.reset(token)
    if voice.verbose:
        sys.stderr.write(f"parplan: {_about(time.perf_counter() - start_s)}\n")
    return code


class _Held(io.TextIOBase):
    """Keeps what is written, for a command that fails after all."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self.kept: list[str] = []

    def write(self, text: str) -> int:
        self.kept.append(text)
        return len(text)

    def release(self) -> None:
        """Write it, but for progress."""
        lines = "".join(self.kept).splitlines(keepends=True)
        self.kept.clear()
        for line in lines:
            if not PROGRESS.fullmatch(line.rstrip("\n")):
                self.stream.write(line)


@contextlib.contextmanager
def _held_notes(voice: Voice) -> Any:
    """Notes on stderr are held back where they are not wanted, until something fails."""
    held = _Held(sys.stderr)
    if not (voice.quiet or voice.json):
        yield held
        return
    with contextlib.redirect_stderr(held):
        try:
            yield held
        except BaseException:
            held.release()
            raise


def _as_json(command: Callable[[argparse.Namespace], int], args: argparse.Namespace) -> int:
    """Run a command, and print its lines, tables and files as one document: docs/summary.md."""
    out = io.StringIO()
    tables: list[Any] = []
    token = PRINTED.set(tables)
    try:
        with contextlib.redirect_stdout(out):
            code = command(args)
    finally:
        PRINTED.reset(token)
    document = {
        "schema": SCHEMA,
        "command": args.command,
        "exit_code": code,
        "lines": out.getvalue().splitlines(),
        "tables": tables,
        "folder": None,
        "files": [],
        "data": {},
    }
    folder = getattr(args, "output", None)
    if isinstance(folder, Path) and (folder / MANIFEST).is_file():
        document |= _folder(folder)
    print_json(clean(document))
    return code


def _folder(folder: Path) -> dict[str, Any]:
    """The files of a folder of results, and what the tables among them hold."""
    manifest = read_json(folder / MANIFEST)
    files = manifest.get("files") if isinstance(manifest, dict) else None
    names = [name for name in files if isinstance(name, str)] if isinstance(files, list) else []
    data = {}
    for name in names:
        path = folder / name
        if Path(name).name != name or not is_file(path) or path.is_symlink() or name == TIMELINE:
            continue
        if path.stat().st_size > MAX_BYTES:
            continue
        if path.suffix == ".csv":
            data[name] = csv_data(read_text(path))
        elif path.suffix == ".json":
            data[name] = read_json(path)
    return {"folder": str(folder), "files": names, "data": data}


def csv_data(text: str) -> list[Any]:
    """The rows of a CSV file by their heading, numbers as numbers; lists where there is none."""
    rows = list(csv.reader(io.StringIO(text)))
    whole = rows and len(set(rows[0])) == len(rows[0]) and all(map(str.strip, rows[0]))
    if not whole or any(len(row) != len(rows[0]) for row in rows):
        return [[_value(cell) for cell in row] for row in rows]
    return [dict(zip(rows[0], map(_value, row), strict=True)) for row in rows[1:]]


def _value(cell: str) -> Any:
    words: Mapping[str, Any] = {"": None, "True": True, "False": False}
    if cell in words:
        return words[cell]
    if re.fullmatch(r"-?\d{1,18}", cell):
        return int(cell)
    try:
        number = float(cell)
    except ValueError:
        return cell
    return number if math.isfinite(number) and "_" not in cell else cell


def _about(seconds: float) -> str:
    """Time, memory, versions."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    scale = 1 if sys.platform == "darwin" else 1024
    return (
        f"{seconds:.2f} s, {used.ru_utime + used.ru_stime:.2f} s of processor time, "
        f"{used.ru_maxrss * scale / 1e6:.0f} MB of memory; parplan {version()}, "
        f"Python {platform.python_version()}, {platform.platform()}"
    )
