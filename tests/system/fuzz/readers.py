"""What reads a file that a user gives, by kind of file, and a valid file of each kind."""

import contextlib
import dataclasses
import functools
import io
import json
from collections.abc import Callable
from pathlib import Path

from parplan._journal import journal_bytes, read_journal
from parplan._strict import read_text
from parplan.backend.calibration.calibrate import profile_of
from parplan.backend.calibration.grid import CalibrationSettings
from parplan.backend.calibration.partial_file import PartialFile, read_partial
from parplan.experiments.arguments.workload import requested_cluster
from parplan.experiments.cases.read import read_cases
from parplan.experiments.interop.importers.imported import Given, finished
from parplan.experiments.interop.reading.sources import SOURCES
from parplan.experiments.output.folder import OutputFolder
from parplan.experiments.report.render import write_report
from parplan.hardware.estimates.profile_file import profile_table, read_profile
from parplan.planners.spaces.constraints import read_constraints
from parplan.sim.models.find import find_model
from parplan.sim.models.model import model_preset
from parplan.sim.plan_file import plan_table, read_plan
from parplan.sim.programs.instructions import read_program, write_csv
from parplan.sim.schedules import make_program
from tests.experiments.cases.published_cases import table
from tests.system.fault_measurements import MACHINE, ROUNDS, sat
from tests.system.fuzz_commands import LAUNCH, SPACE
from tests.system.fuzz_documents import as_toml
from tests.system.fuzz_targets import GOLDEN, PLAN, SMALL

Read = Callable[[Path], object]

CLUSTER = {"node": "dgx-h100", "num_nodes": 2, "title": "It", "source": "a test"}

SETTINGS = CalibrationSettings(model=SMALL.model, seq_len=64, processes=2, grid="quick")


def _cluster(path: Path) -> object:
    with contextlib.redirect_stderr(io.StringIO()):
        return requested_cluster(str(path))


def _launch(path: Path) -> object:
    given = Given(devices=8, model=model_preset("gpt-tiny"), seq_len=64, global_batch=32,
                  micro_batch=None, vocab_size=None, variables={})  # fmt: skip
    text = read_text(path)
    return finished(SOURCES["megatron"](text, path.name, given), given, {}, path.name)


def _schedule(path: Path) -> object:
    return read_program(read_text(path))


def _folder(path: Path) -> object:
    """A folder whose manifest the file is."""
    path.rename(path.parent / "manifest.json")
    return OutputFolder(path.parent, [])


def _report(path: Path) -> object:
    """A folder of results with the file as its choice."""
    folder = path.parent
    path.rename(folder / "plan.json")
    (folder / "manifest.json").write_text(json.dumps(MANIFEST))
    return write_report(folder, folder / "report.html")


MANIFEST = {"arguments": ["plan"], "inputs": {}, "seed": 0, "seconds": 1.0, "files": ["plan.json"]}


@functools.cache
def valid() -> dict[str, bytes]:
    """A file of each kind."""
    plan = json.dumps(plan_table(PLAN, SMALL, "8xh100")).encode()
    partial = PartialFile(Path("profile.json"), MACHINE, SETTINGS)
    settings = json.loads(json.dumps(partial.head))["settings"]
    job = {"sitting": 0, "used_s": ROUNDS - 1, "settings": settings}
    lines = sat(job, 2, report=print_nothing)["lines"]
    golden = sorted((GOLDEN / "hf").glob("*.json"))[0]
    config = json.loads(golden.read_text())
    return {
        "plan.json": plan,
        "model.toml": as_toml({"mine": _model_table()}).encode(),
        "config.json": json.dumps(config.get("config", config)).encode(),
        "space.toml": SPACE.encode(),
        "cases.jsonl": json.dumps(table()).encode() + b"\n",
        "schedule.csv": write_csv(make_program("1f1b", 2, 4)).encode(),
        "launch.sh": LAUNCH.encode(),
        "journal.jsonl": journal_bytes([{"of": "a test"}, *({"n": n} for n in range(9))]),
        "profile.partial.jsonl": journal_bytes([partial.head, *lines]),
        "profile.json": json.dumps(
            profile_table(profile_of([*lines, *lines], SETTINGS, MACHINE))
        ).encode(),
        "cluster.toml": as_toml({"cluster": {"it": CLUSTER}}).encode(),
        "manifest.json": json.dumps(MANIFEST).encode(),
        "shown-plan.json": plan,
    }


def print_nothing(text: str) -> None:
    """For what reports its progress."""


def _model_table() -> dict[str, object]:
    own = dataclasses.asdict(SMALL.model)
    return {key: value for key, value in own.items() if value is not None and key != "name"}


READERS: dict[str, Read] = {
    "plan.json": read_plan,
    "model.toml": lambda path: find_model(str(path)),
    "config.json": lambda path: find_model(str(path)),
    "space.toml": read_constraints,
    "cases.jsonl": read_cases,
    "schedule.csv": _schedule,
    "launch.sh": _launch,
    "journal.jsonl": read_journal,
    "profile.partial.jsonl": lambda path: read_partial(path, MACHINE, SETTINGS),
    "profile.json": read_profile,
    "cluster.toml": _cluster,
    "manifest.json": _folder,
    "shown-plan.json": _report,
}
