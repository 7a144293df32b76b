"""Commands that write files, and what a failure at one of their operations may leave."""

import contextlib
import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

from parplan._files import PART
from parplan._journal import read_journal
from parplan.errors import ParplanError
from parplan.experiments.cli import main
from parplan.sim.models.model import model_preset
from parplan.sim.plan import Plan
from parplan.sim.plan_file import plan_table
from parplan.sim.workload import Workload
from tests.system.fault_measurements import calibrating, executing
from tests.system.fault_points import Ended, ended

JOB = ("gpt-tiny", "--seq-len", "64", "--global-batch", "8")
OUT = "out"
CHANGING = ("manifest.json", "report.html", "log.txt")
"""They hold when and how long, or what was printed."""

SPACE = """\
tensor_parallel = [1, 2]
num_stages = [1, 2]
schedule = ["1f1b"]
recomputation = ["none"]
zero_stage = [0]
batch_per_device = [1]
"""

Around = Callable[[], contextlib.AbstractContextManager[Any]]


@dataclass(frozen=True)
class Command:
    """A command and how it goes on."""

    words: tuple[str, ...]
    again: tuple[str, ...] = ()
    """More words for the run after a failure."""
    journal: str = ""
    stays: bool = True
    """Whether the journal is one of the results."""
    says_finished: bool = False
    """Whether a further run only says that all is done."""
    around: Around = contextlib.nullcontext
    output: str = OUT
    last: str = "manifest.json"
    """The file that is written last."""
    finish: Callable[[Ended, Path], None] = lambda failed, root: None
    """What a user does as the message says."""

    def __call__(self, words: Sequence[str]) -> int:
        with self.around():
            return main(list(words))


@contextlib.contextmanager
def eager() -> Iterator[None]:
    """Records from the first plan on, and each line on the disk at once."""
    with (
        mock.patch("parplan.experiments.planning.record.FIRST_S", 0.0),
        mock.patch("parplan.experiments.planning.record.EVERY_S", 0.0),
        mock.patch("parplan._journal.SYNC_EVERY_S", 0.0),
    ):
        yield


def _plan(*more: str) -> tuple[str, ...]:
    return ("plan", *JOB, "--cluster", "4xh100", "--workers", "1", *more, "-o", OUT)


def move_as_said(failed: Ended, root: Path) -> None:
    """Move what was measured where the message of `execute` says."""
    if found := re.search(r"is in (\S+): move it to (\S+),", failed.said):
        (root / found[1]).rename(root / found[2])


COMMANDS: dict[str, Command] = {
    "plan": Command(
        _plan("--space", "space.toml", "--no-pictures", "--why"),
        *(("--resume",), "search.jsonl", False, True, eager),
    ),
    "plan-by-planner": Command(
        _plan("--space", "space.toml", "--planner", "random", "--budget", "3", "--no-pictures"),
        *(("--resume",), "search.jsonl", True, True, eager),
    ),
    "plan-report": Command(
        _plan("--space", "space.toml", "--no-pictures", "--report"),
        *(("--resume",), "search.jsonl", False, True, eager),
    ),
    "landscape": Command(
        ("landscape", *JOB, "--cluster", "4xh100", "--x", "num_stages=1,2", "--y", "memory=0.5,1",
         "--space", "space.toml", "--workers", "1", "--no-pictures", "-o", OUT),
        *((), "cells.jsonl", True, True, eager),
    ),
    "scale": Command(
        ("scale", *JOB, "--cluster", "h100", "--sizes", "2,4", "--scaling", "strong",
         "--space", "space.toml", "--workers", "1", "--no-pictures", "-o", OUT),
        *((), "points.jsonl", True, True, eager),
    ),
    "validate": Command(("validate", "--group", "palm", "--no-pictures", "-o", OUT)),
    "reproduce": Command(
        ("reproduce", "korthikanti-memory", "--quick", "--no-pictures", "-o", "."),
        output="korthikanti-memory",
    ),
    "calibrate": Command(
        ("calibrate", "--quick", "--model", "gpt-tiny", "-o", "out/profile.json"),
        *(("--resume",), "profile.partial.jsonl", False, True, calibrating),
        last="profile.json",
    ),
    "execute": Command(
        ("execute", "gpt-tiny", "--processes", "2", "--no-pictures", "-o", OUT),
        *(("--resume",), "", True, True, executing),
        finish=move_as_said,
    ),
    "export": Command(("export", "plan.json", "--to", "megatron", "-o", OUT)),
}  # fmt: skip


def prepared(root: Path) -> Path:
    """The folder in which a command runs, with what it reads."""
    root.mkdir()
    (root / "space.toml").write_text(SPACE)
    workload = Workload(model=model_preset("gpt-tiny"), seq_len=64, global_batch=8)
    plan = Plan(data_parallel=4, num_micro_batches=2, batch_per_device=1)
    (root / "plan.json").write_text(json.dumps(plan_table(plan, workload, "4xh100")))
    return root


def files(folder: Path) -> dict[str, bytes]:
    """The content of all files of a folder but those that change from run to run."""
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.name not in CHANGING}


def why_lost(command: Command, failed: Ended, root: Path, whole: dict[str, bytes]) -> str:
    """What is wrong after a failure and a run that goes on; "" where nothing is."""
    if why := _how_it_ended(failed):
        return why
    folder = root / command.output
    if why := _journal_lost(command, failed, folder):
        return why
    if failed.code == 0 and not (folder / command.last).exists():
        return f"exit 0, but there is no {command.last}"
    command.finish(failed, root)
    again = ended(command, (*command.words, *command.again), root)
    if again.code != 0:
        return f"goes on with exit {again.code}: {again.said}"
    if left := [p.name for p in root.rglob(f"*{PART}")]:
        return f"left: {left}"
    found = files(folder)
    if found != whole:
        wrong = [n for n in sorted({*found, *whole}) if found.get(n) != whole.get(n)]
        return f"other bytes: {wrong}"
    if not (folder / command.last).exists():
        return f"no {command.last}"
    if command.says_finished:
        third = ended(command, (*command.words, *command.again), root)
        if third.code != 0 or "is finished already" not in third.said:
            return f"a further run: exit {third.code}: {third.said}"
        if files(folder) != whole:
            return "a further run changes bytes"
    return ""


def _how_it_ended(failed: Ended) -> str:
    if failed.code < 0:
        return ""
    begins = ("parplan: error: ", "parplan: failed: ")
    errors = [line for line in failed.said.splitlines() if line.startswith(begins)]
    if failed.code not in (0, 1, 2) or "Traceback" in failed.said or "internal" in failed.said:
        return f"exit {failed.code}: {failed.said}"
    if (failed.code > 0) != (len(errors) == 1 and failed.said.endswith(f"{errors[0]}\n")):
        return f"exit {failed.code}, not one line: {failed.said}"
    return ""


def _journal_lost(command: Command, failed: Ended, folder: Path) -> str:
    """Lines of a journal that are not there any more."""
    path = folder / command.journal
    before = failed.kept.get(str(path))
    if not command.journal or before is None:
        return ""
    rows = {line for line in before.splitlines() if line.endswith(b"}")}
    if not path.exists():
        finished = (folder / command.last).exists()
        return "" if finished and not command.stays else "the journal is gone"
    try:
        read_journal(path)
    except ParplanError as error:
        return f"the journal is damaged: {error}"
    texts = {_row(line) for line in rows}
    lost = texts - {_row(line) for line in path.read_bytes().splitlines()}
    return f"lost: {lost}" if lost else ""


def _row(line: bytes) -> bytes:
    return line.partition(b'"row": ')[2]
