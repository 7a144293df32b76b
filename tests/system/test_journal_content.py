"""Lines of journals with the right checksum and a wrong content are refused by their number."""

import contextlib
import copy
import io
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from parplan._journal import journal_bytes, read_journal
from parplan.backend.calibration.grid import CalibrationSettings
from parplan.backend.calibration.partial_file import PartialFile, read_partial
from parplan.errors import ParplanError
from parplan.experiments.cli import main
from parplan.experiments.planning.record import Record
from parplan.experiments.scaling.study import RESOURCES
from parplan.hardware.machines.presets import cluster_preset
from parplan.planners.costs.cost_cache import SharedCosts
from parplan.planners.costs.trial import Trial
from parplan.planners.search.exhaustive import PART
from parplan.planners.search.kept_trials import Numbered, PartResult
from parplan.sim.models.model import model_preset
from parplan.sim.plan import Plan
from parplan.sim.workload import Workload
from tests.system.fault_commands import COMMANDS, prepared
from tests.system.fault_measurements import MACHINE, ROUNDS, sat
from tests.system.fuzz_documents import paths

WRONG: tuple[Any, ...] = (math.nan, -math.inf, "abc", [], {}, [[]], True, -1.5, 10**400)
"""In place of any value; none of these is the right one of any field of a journal but of texts."""

Read = Callable[[Path], object]


def raw(rows: list[Any]) -> bytes:
    """A journal with the right sums of whatever is in it."""
    return journal_bytes(rows)


def wrong_rows(row: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """The row with one place changed, and what was changed."""
    for path in paths(row):
        *above, key = path
        where = ".".join(map(str, path))
        for value in WRONG:
            if isinstance(_at(row, path), str) and value == "abc":
                continue
            yield f"{where} = {value!r:.20}", _with(row, path, value)
        made = copy.deepcopy(row)
        parent = _at(made, above)
        del parent[key]
        yield f"without {where}", made
        if isinstance(_at(row, path), dict):
            yield f"{where} with more", _with(row, path, {**_at(row, path), "more": 1})
    yield "with more", {**row, "more": 1}
    for other in ([row], None, "abc", 1.5, []):
        yield f"{other!r:.20} in place of it", other


def _at(value: Any, path: Any) -> Any:
    for step in path:
        value = value[step]
    return value


def _with(row: Any, path: Any, value: Any) -> Any:
    made = copy.deepcopy(row)
    *above, key = path
    _at(made, above)[key] = value
    return made


WORKLOAD = Workload(model=model_preset("gpt-tiny"), seq_len=64, global_batch=8)
CLUSTER = cluster_preset("4xh100")


def timed(plan: Plan) -> Trial:
    (trial,) = SharedCosts(WORKLOAD, CLUSTER).timed([Trial(plan=plan, memory_bytes=(1e9,))])
    return trial


def searched(folder: Path) -> tuple[Path, Read]:
    """`search.jsonl`: a plan that fits, and one that does not."""
    record = Record(folder, WORKLOAD, CLUSTER, 0.8)
    kept = record.begin([])
    kept.add(timed(Plan(data_parallel=4, batch_per_device=2)))
    two = Plan(num_stages=2, num_micro_batches=4, data_parallel=2)
    kept.add(Trial(plan=two, reason="stage 0 lacks 1 GB", memory_bytes=(9e10, 8e10)))
    kept.close()
    return record.path, lambda path: record.read()


def searched_in_parts(folder: Path) -> tuple[Path, Read]:
    """`search.jsonl` of a space whose plans are not all held."""
    record = Record(folder, WORKLOAD, CLUSTER, 0.8)
    trial = timed(Plan(data_parallel=4, batch_per_device=2))
    parts = record.parts(2 * PART, "about", known=False)
    parts.add(PartResult(1, (Numbered(3, trial),)))
    parts.close()
    return record.path, lambda path: record.parts(2 * PART, "about", known=True).close()


def swept(name: str) -> Callable[[Path], tuple[Path, Read]]:
    def made(folder: Path) -> tuple[Path, Read]:
        """A sweep that ended before its results were written."""
        words = [*COMMANDS[name].words[:-1], str(folder / "out")]
        words[words.index("space.toml")] = str(folder / "space.toml")
        assert main(words) == 0
        path = folder / "out" / COMMANDS[name].journal

        def read(path: Path) -> None:
            for other in path.parent.iterdir():
                if other != path:
                    other.unlink()
            said = io.StringIO()
            with contextlib.redirect_stderr(said):
                code = main(words)
            if code == 2:
                raise ParplanError(said.getvalue())
            assert code == 0

        return path, read

    return made


def calibrated(folder: Path) -> tuple[Path, Read]:
    """`profile.partial.jsonl`, with a line of every kind."""
    settings = CalibrationSettings(model=WORKLOAD.model, seq_len=64, processes=2, grid="quick")
    partial = PartialFile(folder / "profile.json", MACHINE, settings)
    job = {"sitting": 0, "used_s": ROUNDS - 1,
           "settings": json.loads(json.dumps(partial.head))["settings"]}  # fmt: skip
    lines = sat(job, 2, report=lambda text: None)["lines"]
    done = {"kind": "done", "sitting": 0, "elapsed_s": 4.0}
    partial.path.write_bytes(raw([partial.head, *lines, done]))
    return partial.path, lambda path: read_partial(path, MACHINE, settings)


FORMATS = {
    "search": searched,
    "search-in-parts": searched_in_parts,
    "cells": swept("landscape"),
    "points": swept("scale"),
    "calibration": calibrated,
}

ALSO_RIGHT = {
    # A plan that could not be laid out at all, with what its fields are by default.
    ("search", 2, "memory_bytes = []"),
    # Resources that a machine lacks have no gain.
    *(("points", line, f"without row.gains.{name}") for name in RESOURCES for line in (1, 2)),
    # None of the plans of a part is among those that are held.
    ("search-in-parts", 1, "held = []"),
    ("search-in-parts", 1, "without held.0"),
}
"""Other lines that are in journals as well."""

MOST = {"cells": 12, "points": 12, "calibration": 60}
"""Changes that the quick tests try of a line; a command is run for each of the first two."""


@pytest.mark.parametrize("share", ["few", pytest.param("all", marks=pytest.mark.long)])
@pytest.mark.parametrize("name", FORMATS)
def test_a_wrong_content_is_refused_with_its_line(
    name: str,
    share: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = prepared(tmp_path / "w")
    monkeypatch.chdir(folder)
    path, read = FORMATS[name](folder)
    rows = read_journal(path)
    read(path)
    wrong, tried = [], 0
    for number, row in enumerate(rows[1:], start=1):
        changes = list(wrong_rows(row))
        if share == "few":
            changes = changes[:: max(1, len(changes) // MOST.get(name, 1000))]
        for what, other in changes:
            tried += 1
            path.write_bytes(raw([*rows[:number], other, *rows[number + 1 :]]))
            if (name, number, what) in ALSO_RIGHT:
                continue
            said = refused(read, path)
            if f"line {number + 1}" not in said:
                wrong.append(f"line {number + 1}: {what}: {said or 'accepted'}")
    assert tried > 10
    assert not wrong, "\n".join(wrong)


def refused(read: Read, path: Path) -> str:
    """What is said of the file; "" where nothing is."""
    try:
        read(path)
    except ParplanError as error:
        return str(error)
    return ""
