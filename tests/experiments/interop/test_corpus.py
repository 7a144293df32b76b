"""Launch files of other software, each with the whole of how it is read.

A folder for each source under tests/golden/interop/launches; beside `NAME` lies `NAME.reading`.
`PARPLAN_WRITE_GOLDEN=1` writes the readings anew; `given` in them is kept.
"""

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import pytest

from parplan.errors import ParplanError
from parplan.experiments.interop.importers.imported import Given, finished
from parplan.experiments.interop.reading.sources import SOURCES
from parplan.sim.models.model import model_preset
from parplan.sim.plan import Plan
from parplan.sim.workload import Workload

LAUNCHES = Path(__file__).parents[2] / "golden" / "interop" / "launches"
FILES = sorted(p for p in LAUNCHES.glob("*/*") if p.is_file() and p.suffix != ".reading")


def reading(path: Path, said: dict[str, Any]) -> dict[str, Any]:
    """What becomes of a file, with all that is not a default."""
    model = said.get("model")
    given = Given(
        devices=said.get("devices", 16),
        model=None if model is None else model_preset(model),
        seq_len=said.get("seq_len"),
        global_batch=said.get("global_batch"),
        micro_batch=said.get("micro_batch"),
        vocab_size=said.get("vocab_size"),
        variables=said.get("variables", {}),
    )
    folder = f"{path.parent}/"
    try:
        settings = SOURCES[path.parent.name](path.read_text(), str(path), given)
        plan, workload = finished(settings, given, {}, path.name)
    except ParplanError as error:
        return {"refused": str(error).replace(folder, "")}
    read: dict[str, Any] = {
        "plan": _changed(plan, Plan()),
        "model": workload.model.name,
        "seq_len": workload.seq_len,
        "global_batch": workload.global_batch,
        "software": settings.software,
        "workload": _changed(workload, _plain(workload, settings.software)),
        "notes": settings.notes,
        "no_effect": settings.no_effect,
        "not_understood": list(settings.not_understood),
    }
    if workload.model.source.startswith("arguments in") or workload.model != given.model:
        read["parameters"] = workload.model.num_parameters
    return json.loads(json.dumps(read).replace(folder, ""))  # type: ignore[no-any-return]


def _plain(workload: Workload, software: str) -> Workload:
    return Workload(
        model=workload.model,
        seq_len=workload.seq_len,
        global_batch=workload.global_batch,
        software=software,
    )


def _changed(value: Any, usual: Any) -> dict[str, Any]:
    """The fields of a dataclass that are not those of another."""
    before = dataclasses.asdict(usual)
    found = {k: v for k, v in dataclasses.asdict(value).items() if v != before[k]}
    if "software" in found:
        own = before["software"]
        found["software"] = {k: v for k, v in found["software"].items() if v != own[k]}
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_a_launch_is_read_as_it_is_meant(path: Path) -> None:
    file = path.with_name(f"{path.name}.reading")
    expected = json.loads(file.read_text()) if file.exists() else {"given": {}}
    found = {"given": expected["given"], **reading(path, expected["given"])}
    if os.environ.get("PARPLAN_WRITE_GOLDEN"):
        file.write_text(json.dumps(found, indent=1) + "\n")
    assert found == json.loads(file.read_text())


def test_every_source_has_launches_of_which_some_are_refused() -> None:
    sources = {path.parent.name for path in FILES}
    assert sources == set(SOURCES)
    refused = {
        path.parent.name
        for path in FILES
        if "refused" in json.loads(path.with_name(f"{path.name}.reading").read_text())
    }
    assert refused == sources
