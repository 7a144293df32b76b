"""Journal of an interrupted calibration."""

import contextlib
import dataclasses
import math
import os
import threading
from pathlib import Path
from typing import Any

from parplan._files import remove_file, write_whole
from parplan._journal import Journal, journal_bytes, read_journal
from parplan._strict import build
from parplan.backend.calibration.grid import (
    LAYERS,
    RECOMPUTATIONS,
    SITTINGS,
    CalibrationSettings,
    grid,
    micro_batches,
)
from parplan.errors import ParplanError, short
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
    for number, line in enumerate(lines, start=2):
        try:
            _check_line(line, settings, machine)
        except ParplanError as error:
            raise ParplanError(f"{path}: line {number}: {error}") from None
    return lines


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


def _check_line(line: Line, settings: CalibrationSettings, machine: Machine) -> None:
    """Raise `ParplanError` for what is no line of a calibration."""
    kind, own = line.get("kind"), {"kind", "sitting", "elapsed_s"}
    if kind not in KINDS:
        raise ParplanError(f"kind: {short(kind)} is not one of {', '.join(KINDS)}")
    if line.keys() != own | ({"seconds"} if kind != "done" else set()):
        raise ParplanError(f"keys: {', '.join(map(short, line))}")
    sitting = line["sitting"]
    if type(sitting) is not int or not 0 <= sitting < SITTINGS[settings.grid]:
        raise ParplanError(f"sitting: {short(sitting)}")
    if not _is_time(line["elapsed_s"]):
        raise ParplanError(f"elapsed_s: {short(line['elapsed_s'])}")
    if kind == "round":
        _check_times(line["seconds"], len(grid(settings, machine.device_kind)), may_lack=True)
    elif kind == "layers":
        sizes = len(micro_batches(settings, machine.device_kind))
        count = sizes * len(RECOMPUTATIONS) * len(LAYERS)
        if not isinstance(line["seconds"], list) or len(line["seconds"]) != count:
            raise ParplanError(f"seconds: expected {count} pairs of times")
        for pair in line["seconds"]:
            _check_times(pair, 2, may_lack=False)


def _check_times(values: object, count: int, *, may_lack: bool) -> None:
    """`may_lack`: whether something may not have been measured."""
    if not isinstance(values, list) or len(values) != count:
        raise ParplanError(f"seconds: expected {count} times, got {short(values)}")
    for value in values:
        if not _is_time(value) and not (may_lack and value is None):
            raise ParplanError(f"seconds: expected times, got {short(value)}")


def _is_time(value: object) -> bool:
    return type(value) in (int, float) and 0 <= float(str(value)) < math.inf
