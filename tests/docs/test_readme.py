"""What the README shows is what happens."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.commands import parplan

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def masked(text: str) -> str:
    """`text` with every time in it made equal: they depend on the machine."""
    return re.sub(r"= \d+ \[ms\]", "= N [ms]", text)


@pytest.mark.timeout(400)
@pytest.mark.parametrize("code", blocks("python"))
def test_every_python_block_runs(code: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    shown = [line.split("# ", 1)[1] for line in code.splitlines() if line.startswith("# ")]
    assert done.stdout.splitlines()[: len(shown)] == shown


SHOWN = ("$ parplan plan", "$ parplan hardware")


@pytest.mark.parametrize("block", [b for b in blocks("console") if b.startswith(SHOWN)])
def test_every_command_that_does_not_measure_prints_what_is_shown(
    block: str, tmp_path: Path
) -> None:
    command, shown = block.split("\n", 1)
    done = parplan(*shlex.split(command.removeprefix("$ parplan ")), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert masked(shown) == masked(done.stdout + done.stderr)


def test_the_test_command_is_that_of_the_gate() -> None:
    assert "make test" in "".join(blocks("console"))
    assert (ROOT / ".ci" / "run").read_text().splitlines()[-1] == "make test"


def test_every_file_that_is_named_exists() -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / target).exists(), target
