"""Files that the tools and the Makefile name: each of them exists."""

import re
from pathlib import Path

import pytest

from tests.tools.core_mutants import PARTS, looked_at
from tests.tools.forked_tests import COMPILED, node

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", PARTS)
def test_sources_and_tests_of_mutants_exist(name: str) -> None:
    part = PARTS[name]
    assert part.sources
    assert part.tests
    assert [p for p in (*part.sources, *part.tests) if not (ROOT / p).exists()] == []


def test_compiled_sources_exist() -> None:
    names = {path.name for path in (ROOT / "sim").rglob("*.py")}
    assert names >= COMPILED


def test_equivalent_changes_are_of_lines_that_exist() -> None:
    assert looked_at()


def test_a_test_in_a_folder_is_named_as_pytest_names_it() -> None:
    found = node("tests.sim.fast.test_fast.test_x")
    assert found == "tests/sim/fast/test_fast.py::test_x"


def test_paths_and_modules_of_the_makefile_exist() -> None:
    text = (ROOT / "Makefile").read_text()
    modules = re.findall(r"-m (tests[.\w]+)", text)
    paths = re.findall(r"(?<![\w/])tests/[\w/]+(?:\.\w+)?", text)
    assert len(modules) > 3
    assert len(paths) > 10
    named = [*paths, *(module.replace(".", "/") + ".py" for module in modules)]
    assert [path for path in named if not (ROOT / path).exists()] == []
