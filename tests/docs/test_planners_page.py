"""docs/planners.md says what its commands print."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from parplan.experiments.cli import main
from parplan.planners.search.run import BUILT_IN

PAGE = (Path(__file__).parents[2] / "docs/planners.md").read_text(encoding="utf-8")
FILES = zip(
    re.findall(r"[Ww]ith `(\w+\.toml)`\n", PAGE),
    re.findall(r"```toml\n(.*?)```", PAGE, flags=re.DOTALL),
    strict=True,
)
SPACES = dict(FILES)
COMMANDS = [
    tuple(part.split("\n", 1))
    for block in re.findall(r"```console\n(.*?)```", PAGE, flags=re.DOTALL)
    for part in block.removeprefix("$ parplan ").split("$ parplan ")
]


@pytest.mark.parametrize(("command", "shown"), COMMANDS, ids=range(len(COMMANDS)))
def test_every_command_prints_what_is_shown(
    command: str,
    shown: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, text in SPACES.items():
        Path(name).write_text(text)
    main(shlex.split(command))
    printed = "".join(reversed(capsys.readouterr())).splitlines()
    places = [printed.index(line) for line in shown.splitlines()]
    assert places == sorted(places)
    assert places


def test_the_python_block_runs(tmp_path: Path) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[1] == "True 0.0"


def test_every_planner_is_named() -> None:
    table = PAGE.split("## Planners")[1].split("## Spaces")[0]
    assert set(re.findall(r"`([a-z0-9-]+)`", table)) >= set(BUILT_IN)
