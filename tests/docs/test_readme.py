"""What the README shows is what happens."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.commands import parplan
from tests.docs.doc_blocks import steady

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


@pytest.mark.timeout(400)
@pytest.mark.parametrize("code", blocks("python"))
def test_every_python_block_runs(code: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    shown = [line.split("# ", 1)[1] for line in code.splitlines() if line.startswith("# ")]
    assert done.stdout.splitlines()[: len(shown)] == shown


SHOWN = ("$ parplan plan",)
MOST_WORDS = 900


@pytest.mark.parametrize("block", [b for b in blocks("console") if b.startswith(SHOWN)])
def test_every_command_that_does_not_measure_prints_what_is_shown(
    block: str, tmp_path: Path
) -> None:
    command, shown = block.split("\n", 1)
    done = parplan(*shlex.split(command.removeprefix("$ parplan ")), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert steady(shown) == steady(done.stdout + done.stderr)


def test_the_test_command_is_that_of_the_gate() -> None:
    assert "make test" in "".join(blocks("console"))
    assert (ROOT / ".ci" / "run").read_text().splitlines()[-1] == "make test"


def test_every_file_that_is_named_exists() -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / target).exists(), target


def test_it_is_short() -> None:
    assert len(README.split()) <= MOST_WORDS


def row(page: str, start: str) -> list[str]:
    """The words of the first line of a page that begins so."""
    lines = (ROOT / "docs" / page).read_text(encoding="utf-8").splitlines()
    return next(line for line in lines if line.startswith(start)).split()


def test_the_errors_are_those_of_the_pages() -> None:
    text = " ".join(README.split())
    every, unfitted = row("accuracy.md", "all  "), row("accuracy.md", "all without *")[2:]
    columns = row("accuracy.md", "source  ")
    number = {name: columns.index(name) for name in columns}
    assert f"Of {int(every[2]):,} measured training steps" in text
    assert f"error of the prediction is {percent(every[number['median']])};" in text
    assert f"fitted to {percent(unfitted[number['median']])}," in text
    assert f"and {percent(unfitted[number['p90']])} at the 90th percentile" in text
    assert f"on average {percent(unfitted[number['regret']])} slower" in text
    assert percent(row("accuracy.md", "fits in memory:")[-1].rstrip(")")) in text
    steps = row("execution.md", "step time: mean absolute error 2")
    assert f"mean error of the step time {percent(steps[5].rstrip(','))}," in text
    assert f"worst {percent(steps[7].lstrip('+'))}, noise {percent(steps[-1])}:" in text


def percent(printed: str) -> str:
    """A percentage as sentences have it."""
    return f"{printed.removesuffix('%')} %"


def test_the_picture_is_that_of_the_command() -> None:
    command, _ = next(b for b in blocks("console") if b.startswith(SHOWN)).split("\n", 1)
    assert f"{command.removeprefix('$ ')} -o out/picture" in (ROOT / "Makefile").read_text()
