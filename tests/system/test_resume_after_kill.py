"""Commands that are killed at any moment and started again give what they give otherwise."""

import os
import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from parplan._journal import read_journal

pytestmark = pytest.mark.timeout(600)

EAGER = """
import sys
from parplan.experiments.planning import record as search_record
from parplan.experiments.cli import main
search_record.FIRST_S = search_record.EVERY_S = 0.0
sys.exit(main(sys.argv[1:]))
"""
"""The command line, with a record from the first plan on."""

WORKLOAD = ("llama2-7b", "--seq-len", "1024", "--global-batch", "64")
LANDSCAPE = (
    *("landscape", *WORKLOAD, "--cluster", "8xh100"),
    *("--x", "num_stages=1,2,4,8", "--y", "memory=0.5,1,2", "--panels", "zero_stage=0,1,3"),
)
PLAN = ("plan", *WORKLOAD, "--cluster", "1024xa100-80gb", "--space", "full")
SEARCH = (*PLAN, "--planner", "random", "--budget", "500")
CHANGING = ("manifest.json",)
"""It holds when and how long."""


def command(words: tuple[str, ...], folder: Path, limit: int | None = None) -> subprocess.Popen:
    def limited() -> None:
        if limit is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    return subprocess.Popen(
        [sys.executable, "-c", EAGER, *words, "-o", str(folder)],
        cwd=folder.parent,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=limited,
    )


def files(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.name not in CHANGING}


def killed(words: tuple[str, ...], folder: Path, journal: str, seed: int, kills: int) -> int:
    """Start and kill, each some time after there are new lines; lines at the kills.

    At least so many kills, and more until a whole line besides the head was kept.
    """
    chance, lines, count = random.Random(seed), 0, 0
    while count < kills or lines < 2:
        count += 1
        process = command(words, folder)
        path, size = folder / journal, (folder / journal).stat().st_size if lines else 0
        while process.poll() is None and (not path.exists() or path.stat().st_size <= size):
            time.sleep(0.001)
        time.sleep(chance.random() * 0.05)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        now = len(read_journal(path)) if path.exists() else 0
        assert now >= lines, "lines were lost"
        lines = now
        if process.returncode == 0:
            break
        if "--resume" not in words and words[0] == "plan":
            words = (*words, "--resume")
    return lines


@pytest.mark.parametrize(
    ("words", "journal", "again"),
    [
        pytest.param(LANDSCAPE, "cells.jsonl", (), id="landscape"),
        pytest.param(SEARCH, "search.jsonl", ("--resume",), id="search"),
    ],
)
def test_a_killed_command_goes_on(
    words: tuple[str, ...], journal: str, again: tuple[str, ...], tmp_path: Path
) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    first = command(words, whole)
    _, said = first.communicate()
    assert first.returncode == 0, said
    expected = files(whole)
    seed = int.from_bytes(os.urandom(4), "big")
    lines = killed(words, parts, journal, seed, kills=2)
    assert 1 < lines <= len(read_journal(whole / journal)), f"seed {seed}"
    last = command((*words, *again), parts)
    _, said = last.communicate()
    assert last.returncode == 0, said
    assert files(parts) == expected, f"seed {seed}"


@pytest.mark.long
def test_a_disk_that_fills_up(tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    process = command(SEARCH, parts, limit=20_000)
    _, said = process.communicate()
    assert process.returncode == 2, said
    assert said.splitlines()[-1].endswith(
        "search.jsonl: cannot be written: File too large; what was done before is kept"
    )
    assert "Traceback" not in said
    kept = (parts / "search.jsonl").read_bytes()
    for folder, more in ((parts, ("--resume",)), (whole, ())):
        process = command((*SEARCH, *more), folder)
        _, said = process.communicate()
        assert process.returncode == 0, said
    assert files(parts) == files(whole)
    assert (whole / "search.jsonl").read_bytes().startswith(kept)
