"""What an interrupted calibration leaves: one JSON table a line, each as soon as it is there."""

import dataclasses
import json
import threading
from pathlib import Path
from typing import Any

from parplan.backend.calibration_grid import Settings
from parplan.hardware.errors import ParplanError
from parplan.hardware.files import write_whole
from parplan.hardware.profile import Machine
from parplan.hardware.profile_file import machine_differences
from parplan.hardware.strict import build

FORMAT = 1

KINDS = ("round", "layers", "done")

Line = dict[str, Any]


class PartialFile:
    """The lines so far, in memory and on disk. `path` lies beside the profile."""

    def __init__(self, profile: Path, machine: Machine, settings: Settings) -> None:
        self.path = partial_path(profile)
        self.machine = machine
        self.head = {
            "parplan_calibration": FORMAT,
            "machine": dataclasses.asdict(machine),
            "settings": dataclasses.asdict(settings),
        }
        self.lines: list[Line] = []
        self._lock = threading.Lock()

    def begin(self, lines: list[Line]) -> None:
        """Write the file anew with `lines`; raises `ParplanError` if it can't be written."""
        with self._lock:
            self.lines = list(lines)
            content = "".join(f"{json.dumps(line)}\n" for line in (self.head, *lines))
            write_whole(self.path, content.encode())

    def add(self, line: Line) -> None:
        """One more line, kept on disk if that is possible."""
        with self._lock:
            self.lines.append(line)
            try:
                with self.path.open("a") as file:
                    file.write(f"{json.dumps(line)}\n")
            except OSError:
                # It only serves to resume; the profile is written in the end all the same.
                return

    def remove(self) -> None:
        """There is a profile now."""
        self.path.unlink(missing_ok=True)


def partial_path(profile: Path) -> Path:
    """`profile.partial.jsonl` of `profile.json`."""
    return profile.with_suffix(".partial.jsonl")


def read_partial(path: Path, machine: Machine, settings: Settings) -> list[Line]:
    """The lines that are left, without a last one that was cut off.

    Raises `ParplanError` for another machine, other settings, or a file that is none of this.
    """
    try:
        texts = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise ParplanError(f"{path}: there is nothing to resume") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ParplanError(f"{path}: cannot be read: {error}") from None
    tables = [_parsed(path, i, text, i == len(texts)) for i, text in enumerate(texts, start=1)]
    head, *lines = [table for table in tables if table is not None] or [{}]
    if head.get("parplan_calibration") != FORMAT:
        raise ParplanError(f"{path}: not left by a calibration, or by another version of parplan")
    _check_same(path, head, machine, settings)
    return [_checked(path, i, line) for i, line in enumerate(lines, start=2)]


def _parsed(path: Path, number: int, text: str, is_last: bool) -> Line | None:
    try:
        table = json.loads(text)
    except json.JSONDecodeError:
        if is_last:
            return None
        raise ParplanError(f"{path}: line {number}: not valid JSON") from None
    if not isinstance(table, dict):
        raise ParplanError(f"{path}: line {number}: expected a table, got {text[:40]!r}")
    return table


def _check_same(path: Path, head: Line, machine: Machine, settings: Settings) -> None:
    measured = build(Machine, head.get("machine"), f"{path}: machine")
    for difference in machine_differences(measured, machine):
        raise ParplanError(f"{path}: begun on another machine: {difference}")
    asked = build(Settings, head.get("settings"), f"{path}: settings")
    for field in dataclasses.fields(Settings):
        old, new = getattr(asked, field.name), getattr(settings, field.name)
        if old != new:
            old, new = (getattr(value, "name", value) for value in (old, new))
            raise ParplanError(f"{path}: begun with {field.name} {old}, now asked for {new}")


def _checked(path: Path, number: int, line: Line) -> Line:
    sound = line.get("kind") in KINDS and isinstance(line.get("sitting"), int)
    sound = sound and isinstance(line.get("elapsed_s"), int | float)
    if line.get("kind") != "done":
        sound = sound and isinstance(line.get("seconds"), list)
    if not sound:
        raise ParplanError(f"{path}: line {number}: not a line of a calibration")
    return line
