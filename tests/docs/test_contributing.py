"""The recipes of CONTRIBUTING.md work as they are printed."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from parplan.experiments.interop.reading.sources import SOURCES
from parplan.sim.schedules import CATALOGUE
from tests.docs.doc_blocks import Ran, run_page

PAGE = Path(__file__).parents[2] / "CONTRIBUTING.md"


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Ran]]:
    """What each block ran, by its first word or line; what it registers is removed again."""
    before = dict(CATALOGUE), dict(SOURCES)
    with pytest.MonkeyPatch.context() as patch:
        found = run_page(PAGE, tmp_path_factory.mktemp("recipes"), patch)
        yield {" ".join(one.what.split()[:4]): one for one in found}
    for registry, kept in zip((CATALOGUE, SOURCES), before, strict=True):
        for name in registry.keys() - kept.keys():
            del registry[name]


def test_every_block_prints_what_it_shows(ran: dict[str, Ran]) -> None:
    assert {one.what: one.printed for one in ran.values()} == {
        one.what: one.shown for one in ran.values()
    }


@pytest.mark.parametrize("name", ["CONTRIBUTING.md", "CHANGELOG.md"])
def test_every_file_that_is_named_exists(name: str) -> None:
    text = (PAGE.parent / name).read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text):
        assert (PAGE.parent / target).exists(), target


def test_a_planner_and_a_framework_plan(ran: dict[str, Ran]) -> None:
    assert "first_fit:first_fit: " in ran["PYTHONPATH=. parplan plan llama3-8b"].printed
    assert "tokens/s" in ran["parplan plan llama3-8b --cluster"].printed


def test_a_schedule_is_allowed_and_made(ran: dict[str, Ran]) -> None:
    block = ran["from parplan.sim.programs.instructions import Action"]
    assert block.printed == block.shown
    assert "allowed" in block.shown


def test_an_accelerator_is_shown_with_its_cluster(ran: dict[str, Ran]) -> None:
    (shown,) = (one for name, one in ran.items() if name.startswith("parplan hardware"))
    assert "my-chip" in shown.printed
    assert "accelerators" in shown.printed


def test_an_importer_reads_a_launch_and_says_what_it_left_out(ran: dict[str, Ran]) -> None:
    printed = ran["parplan import launch.toml --from"].printed
    assert "compile: not read" in printed
    assert "step" in printed
