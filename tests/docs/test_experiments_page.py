"""The page about experiments: its commands print what it shows, its table is what they find."""

import re
import shlex
from dataclasses import asdict
from pathlib import Path

import pytest

from parplan.experiments.accuracy.page import shown_table
from parplan.experiments.cli import main
from parplan.experiments.commands.study.reproduce import COMMAND, PAGE, overview_row
from parplan.experiments.landscape.machine import CHANGES
from parplan.experiments.landscape.metrics import METRICS
from parplan.experiments.reproduce import NAMES, experiment

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / PAGE).read_text(encoding="utf-8")
BLOCKS = [
    block
    for block in re.findall(r"```console\n\$ parplan (.*?)```", TEXT, flags=re.DOTALL)
    if not block.startswith("reproduce all")
]
SOON = ("bubble-curves", "megatron-interleaving", "megatron-micro-batch", "zero-memory")
"""Experiments whose whole set takes less than a second."""


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.split()[0])
def test_commands_print_what_is_shown(
    block: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    command, shown = block.split("\n", 1)
    assert main(shlex.split(command)) == 0
    assert capsys.readouterr().out == shown


def test_the_table_has_every_experiment() -> None:
    rows = shown_table(TEXT, COMMAND, PAGE).splitlines()[1:]
    assert list(dict.fromkeys(row.split()[0] for row in rows)) == list(NAMES)


@pytest.mark.parametrize("name", SOON)
def test_the_table_says_how_far_off_they_are(name: str) -> None:
    rows = [row.split() for row in shown_table(TEXT, COMMAND, PAGE).splitlines()]
    for column, errors in experiment(name).run(False).errors.items():
        assert overview_row(name, column, asdict(errors)) in rows


def test_every_name_is_on_the_page_and_every_file_exists() -> None:
    for name in (*CHANGES, *METRICS):
        assert f"`{name}`" in TEXT, name
    for target in re.findall(r"\]\(([^)#:]+)\)", TEXT):
        assert (ROOT / "docs" / target).exists(), target
    for name in re.findall(r"^- \*([a-z0-9-]+)\*:", TEXT, flags=re.MULTILINE):
        assert name in NAMES
