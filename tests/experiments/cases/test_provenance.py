"""What may be fitted to what: the runs that only report accuracy are read by that report alone."""

import ast
import re
from pathlib import Path

import pytest

from parplan.errors import ParplanError
from parplan.experiments.cases.fit import SOURCES
from parplan.experiments.cases.held_out import (
    CALIBRATION,
    PAPERS,
    VALIDATION,
    refuse_held_out,
)
from parplan.experiments.cases.read import read_cases

ROOT = Path(__file__).parents[3]
FOLDERS = ("hardware", "sim", "planners", "backend", "experiments")
README = (ROOT / "experiments" / "papers" / "README.md").read_text(encoding="utf-8")


def modules() -> dict[str, ast.Module]:
    paths = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")]
    return {path.relative_to(ROOT).as_posix(): ast.parse(path.read_text()) for path in paths}


def mentions(tree: ast.Module) -> bool:
    """Whether a module names the validation file, or the constant that does."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and "published_validation" in str(node.value):
            return True
        if isinstance(node, ast.ImportFrom) and any(n.name == "VALIDATION" for n in node.names):
            return True
        if isinstance(node, ast.Attribute) and node.attr == "VALIDATION":
            return True
    return False


def test_only_the_report_reads_the_runs_that_are_held_out() -> None:
    found = {name for name, tree in modules().items() if mentions(tree)}
    assert found == {
        "experiments/cases/held_out.py",
        "experiments/reproduce/published.py",
        "experiments/commands/study/validate.py",
    }


def test_no_run_is_in_both_files() -> None:
    fitted, held_out = read_cases(CALIBRATION), read_cases(VALIDATION)
    assert not {case.id for case in fitted} & {case.id for case in held_out}
    assert not {(c.model, c.hardware, c.parallel) for c in fitted} & {
        (c.model, c.hardware, c.parallel) for c in held_out
    }


def test_fitting_refuses_a_run_that_is_held_out() -> None:
    refuse_held_out(read_cases(CALIBRATION))
    held_out = read_cases(VALIDATION)[0]
    with pytest.raises(ParplanError, match=f"{held_out.id}: is in published_validation"):
        refuse_held_out([held_out])


def test_frameworks_are_fitted_to_sources_of_the_calibration_file() -> None:
    known = {case.group for case in read_cases(CALIBRATION)}
    assert {group for groups in SOURCES.values() for group in groups} <= known


def test_every_data_file_says_where_it_is_from_and_what_for() -> None:
    rows = set(re.findall(r"^\| `([^`]+)` \|", README, flags=re.MULTILINE))
    files = {path.name for path in PAPERS.iterdir() if path.suffix in (".json", ".jsonl", ".toml")}
    assert rows == files


def test_the_numbers_of_runs_are_those_of_the_files() -> None:
    for path in (CALIBRATION, VALIDATION):
        (row,) = (line for line in README.splitlines() if line.startswith(f"| `{path.name}`"))
        cases = read_cases(path)
        assert f"{len(cases):,} training runs" in row
    sources = len({case.group for case in cases})
    failed = sum(case.measured.oom for case in cases)
    assert f"of {sources} sources; {failed} of them ran out of memory" in row
