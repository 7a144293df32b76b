"""Every block of the documentation runs, and prints what it shows (`make docs` writes that)."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.doc_blocks import run_page

ROOT = Path(__file__).parents[2]
PAGES = (
    "python",
    "first-steps",
    "summary",
    "explore",
    "for-training-engineers",
    "for-researchers",
    "for-one-machine",
    "add-your-accelerator",
    "write-a-planner",
    "write-a-schedule",
    "validate-against-your-run",
    "how-the-model-works",
    "interoperation",
    "schedules",
)


@pytest.mark.parametrize("name", PAGES)
def test_every_block_prints_what_it_shows(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = run_page(ROOT / "docs" / f"{name}.md", tmp_path, monkeypatch)
    assert ran
    if os.environ.get("PARPLAN_WRITE_DOCS"):
        pytest.skip("the page was written, not checked")
    assert {one.what: one.printed for one in ran} == {one.what: one.shown for one in ran}


@pytest.mark.long
@pytest.mark.timeout(600)
def test_commands_that_measure_this_machine_run(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "for-one-machine.md").read_text(encoding="utf-8")
    saved = re.search(
        r"[Ss]aved as `train.py`:\n\n```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE
    )
    assert saved is not None
    (tmp_path / "train.py").write_text(saved[1], encoding="utf-8")
    blocks = re.findall(r"^```sh\n(.*?)^```$", text, flags=re.DOTALL | re.MULTILINE)
    commands = [line for block in blocks for line in block.splitlines()]
    assert len(commands) == 4
    for command in commands:
        words = [sys.executable, "-m", *command.split()]
        done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, f"{command}\n{done.stderr}"
        if "train" in command.split()[1]:
            assert "measured:" in done.stdout + done.stderr


@pytest.mark.parametrize("name", PAGES)
def test_every_file_that_is_named_exists(name: str) -> None:
    text = (ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text):
        assert (ROOT / "docs" / target).exists(), target
