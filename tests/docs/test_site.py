"""The documentation site: every page is reachable, and links lead to pages of the site."""

import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import yaml

from tests.tools.browser import LONGEST_MS, opened_browser

ROOT = Path(__file__).parents[2]
CONFIG = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
GENERATED = {"index.md", "notebook.md", "api/index.md", "contributing.md", "changelog.md"}
"""Pages that `docs/site_hooks.py` makes."""


def entries(nav: list[object]) -> Iterator[str]:
    for entry in nav:
        for value in entry.values() if isinstance(entry, dict) else [entry]:
            if isinstance(value, list):
                yield from entries(value)
            else:
                yield str(value)


def test_the_navigation_has_every_page_once() -> None:
    pages = {path.name for path in (ROOT / "docs").glob("*.md")}
    found = list(entries(CONFIG["nav"]))
    assert sorted(found) == sorted(pages | GENERATED)


def test_the_site_needs_nothing_from_elsewhere() -> None:
    assert CONFIG["theme"]["font"] is False
    assert CONFIG["strict"] is True
    assert not {"extra_javascript", "extra_css"} & set(CONFIG)
    for script in CONFIG["extra"]["polyfills"]:
        assert (ROOT / "docs" / script).is_file()


@pytest.fixture(scope="module")
def hooks() -> ModuleType:
    pytest.importorskip("mkdocs")
    spec = importlib.util.spec_from_file_location("site_hooks", ROOT / "docs" / "site_hooks.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("page", "link", "moved"),
    [
        ("a.md", "[p](../sim/plan.py)", "[p](api/parplan.sim.md#parplan.sim.plan)"),
        ("a.md", "[l](../sim/layers)", "[l](api/parplan.sim.layers.md)"),
        ("a.md", "[t](../sim/models/models.toml)", "t"),
        ("a.md", "[o](other.md#x)", "[o](other.md#x)"),
        ("a.md", "[r](../README.md)", "[r](index.md)"),
        ("a.md", "[n](example.ipynb)", "[n](notebook.md)"),
        ("a.md", "![i](plan.png)", "![i](plan.png)"),
        ("a.md", "[w](https://example.org)", "[w](https://example.org)"),
    ],
)
def test_links_stay_within_the_site(hooks: ModuleType, page: str, link: str, moved: str) -> None:
    where = SimpleNamespace(file=SimpleNamespace(src_uri=page))
    assert hooks.on_page_markdown(link, where, None, None) == moved


@pytest.mark.long
@pytest.mark.timeout(600)
def test_the_site_is_built_without_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("material")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    quiet = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env=quiet)
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    for page in ("index", "api/parplan", "api/parplan.sim.engine", "contributing"):
        assert (tmp_path / f"{page}.html").is_file(), page
    assert _searched(tmp_path / "index.html", "zero bubble")[0] == "Pipeline schedules"


def _searched(page: Path, words: str) -> list[str]:
    """The titles that the search box of a page finds, opened from its folder in a browser."""
    with opened_browser() as browser:
        tab = browser.new_page()
        elsewhere: list[str] = []
        tab.on("request", lambda request: elsewhere.append(request.url))
        tab.goto(page.as_uri())
        tab.focus("input.md-search__input")
        tab.keyboard.type(words)
        tab.wait_for_selector(".md-search-result__item", timeout=LONGEST_MS)
        assert not [url for url in elsewhere if not url.startswith(("file:", "data:", "blob:"))]
        return [found.inner_text() for found in tab.query_selector_all(".md-search-result h1")]
