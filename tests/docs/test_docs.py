"""Every block of the documentation runs, and prints what it shows (`make docs` writes that)."""

import os
import re
from pathlib import Path

import pytest

from tests.docs.doc_blocks import run_page

ROOT = Path(__file__).parents[2]
PAGES = (
    "python",
    "first-steps",
    "summary",
    "explore",
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


@pytest.mark.parametrize("name", PAGES)
def test_every_file_that_is_named_exists(name: str) -> None:
    text = (ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text):
        assert (ROOT / "docs" / target).exists(), target
