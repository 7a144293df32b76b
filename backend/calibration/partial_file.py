"""Journal of an interrupted calibration."""

import contextlib
import dataclasses
import math
import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from parplan._files import remove_file, write_whole
from parplan._journal import Journal, journal_bytes, read_journal
from parplan._strict import build
from parplan.backend.calibration.grid import CalibrationSettings
from parplan.errors import ParplanError
from parplan.hardware.estimates.profile import Machine
from parplan.hardware.estimates.profile_file import machine_differences

FORMAT = 2

KINDS = ("round", "layers", "done")

Line = dict[str, Any]


class PartialFile:
    """The lines so far, in memory and on disk. `path` lies beside the profile."""

    def __init__(self, profile: Path, machine: Machine, settings: CalibrationSettings) -> None:
        self.path = partial_path(profile)
        self.machine = machine
        self.head = {
            "parplan_calibration": FORMAT,
            "machine": dataclasses.asdict(machine),
            "settings": dataclasses.asdict(settings),
        }
        self.lines: list[Line] = []
        self._lock = threading.Lock()
        self._journal: Journal | None = None

    def begin(self, lines: list[Line]) -> None:
        """Write the file anew with `lines`; raises `ParplanError` if it can't be written."""
        with self._lock:
            self._close()
            self.lines = list(lines)
            if os.path.lexists(self.path):
                read_journal(self.path)  # Raises for a file that is none of parplan's.
            write_whole(self.path, journal_bytes((self.head, *lines)))
            self._journal = Journal(self.path, self.head)

    def add(self, line: Line) -> None:
        """One more line, kept on disk if that is possible."""
        with self._lock:
            self.lines.append(line)
            # It only serves to resume; the profile is written in the end all the same.
            with contextlib.suppress(ParplanError):
                if self._journal is not None:
                    self._journal.add(line)

    def remove(self) -> None:
        """Remove the partial file, which a complete profile replaces."""
        self._close()
        remove_file(self.path)

    def _close(self) -> None:
        if self._journal is not None:
            self._journal.close()
            self._journal = None


def partial_path(profile: Path) -> Path:
    """`profile.partial.jsonl` of `profile.json`."""
    return profile.with_suffix(".partial.jsonl")


def read_partial(path: Path, machine: Machine, settings: CalibrationSettings) -> list[Line]:
    """The lines that are left, without a last one that was cut off; none without such a file.

    Raises `ParplanError` for another machine, other settings, or a file that is none of this.
    """
    if not os.path.lexists(path):
        return []
    found = read_journal(path)
    if not found:  # It was cut off in its first line.
        return []
    head, *lines = found
    if head.get("parplan_calibration") != FORMAT:
        raise ParplanError(f"{path}: not left by a calibration, or by another version of parplan")
    _check_same(path, head, machine, settings)
    return [_checked(path, i, line) for i, line in enumerate(lines, start=2)]


def _check_same(path: Path, head: Line, machine: Machine, settings: CalibrationSettings) -> None:
    measured = build(Machine, head.get("machine"), f"{path}: machine")
    for difference in machine_differences(measured, machine):
        raise ParplanError(f"{path}: begun on another machine: {difference}")
    asked = build(CalibrationSettings, head.get("settings"), f"{path}: settings")
    for field in dataclasses.fields(CalibrationSettings):
        old, new = getattr(asked, field.name), getattr(settings, field.name)
        if old != new:
            old, new = (getattr(value, "name", value) for value in (old, new))
            raise ParplanError(f"{path}: begun with {field.name} {old}, now asked for {new}")


def _checked(path: Path, number: int, line: Line) -> Line:
    sound = line.get("kind") in KINDS and type(line.get("sitting")) is int
    sound = sound and line.get("elapsed_s") is not None and _are_times([line["elapsed_s"]])
    if line.get("kind") != "done":
        sound = sound and isinstance(line.get("seconds"), list) and _are_times(line["seconds"])
    if not sound:
        raise ParplanError(f"{path}: line {number}: not a line of a calibration")
    return line


def _are_times(values: Sequence[object]) -> bool:
    """Whether all are numbers from 0 on, None where nothing was measured, or lists of such."""
    return all(
        _are_times(value)
        if isinstance(value, list)
        else value is None or (type(value) in (int, float) and 0 <= float(str(value)) < math.inf)
        for value in values
    )
