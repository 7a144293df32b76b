"""What docs/models.md shows is what happens."""

import re
import shlex
from pathlib import Path

import pytest

from tests.commands import parplan

PAGE = (Path(__file__).parents[2] / "docs" / "models.md").read_text()

pytestmark = pytest.mark.timeout(300)


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, flags=re.DOTALL)


@pytest.mark.parametrize("block", blocks("console"))
def test_the_last_command_prints_what_is_shown(block: str, tmp_path: Path) -> None:
    commands = [line for line in block.splitlines() if line.startswith("$ parplan ")]
    for command in commands:
        done = parplan(*shlex.split(command.removeprefix("$ parplan ")), cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    assert done.stdout == block.partition(f"{commands[-1]}\n")[2]


@pytest.mark.long
def test_the_script_trains_on_two_processes(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    (code,) = blocks("python")
    (tmp_path / "train.py").write_text(code)
    done = parplan("train", "--processes", "2", "train.py", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    *steps, last = done.stdout.splitlines()
    assert [line.split(":")[0] for line in steps] == [f"step {i}" for i in range(4)]
    assert last == "{'step': 4}"
    assert (tmp_path / "checkpoint" / ".metadata").exists()
