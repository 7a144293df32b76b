"""`parplan compare-planners`: regret against the proven optimum."""

import csv
from pathlib import Path

import numpy as np
import pytest

from parplan.experiments.benchmarks.compare_planners import (
    Comparison,
    compare,
    evaluations_until_near,
    table,
)
from parplan.experiments.benchmarks.compare_planners_figure import regret_figure
from parplan.planners.conformance import example_space
from parplan.planners.search.evaluator import Budget
from tests.commands import parplan


@pytest.fixture(scope="module")
def comparison() -> Comparison:
    names = ["branch-and-bound", "random"]
    found = compare(example_space(), names, Budget(evaluations=80), (0, 1), lambda *_: None)
    assert found is not None
    return found


def test_no_planner_beats_the_optimum(comparison: Comparison) -> None:
    assert [report.seed for report in comparison.reports] == [0, 1, 0, 1]
    assert all(comparison.regret(report) >= 0 for report in comparison.reports)
    assert {comparison.regret(report) for report in comparison.of("branch-and-bound")} == {0.0}


def test_evaluations_until_near(comparison: Comparison) -> None:
    for report in comparison.reports:
        near = evaluations_until_near(comparison, report)
        found = [
            s.evaluations for s in report.improvements if comparison.regret_of(s.step_s) < 0.01
        ]
        assert near == (found[0] if found else float("inf"))


def test_the_table_has_a_line_for_each_planner(comparison: Comparison) -> None:
    lines = list(table(comparison))
    assert len(lines) == 3
    assert lines[1].split()[:2] == ["branch-and-bound", "0.0%"]
    assert lines[1].endswith("2 of 2")
    assert lines[2].endswith("0 of 2")


def test_the_lines_go_down_to_the_regret(comparison: Comparison) -> None:
    figure = regret_figure(comparison, "title")
    over_evaluations, over_seconds = (
        np.asarray({line.get_label(): line for line in axes.get_lines()}["random"].get_ydata())
        for axes in figure.axes
    )
    regrets = [100 * comparison.regret(report) for report in comparison.of("random")]
    assert over_evaluations[-1] == pytest.approx(np.median(regrets))
    assert (np.diff(over_evaluations) <= 0).all()
    assert (np.diff(over_seconds) <= 0).all()


def test_the_command(tmp_path: Path) -> None:
    request = ("compare-planners", "llama3-8b", "--cluster", "8xh100", "--seq-len", "2048")
    options = ("--planners", "beam,grid", "--budget", "30", "--seeds", "2", "-o", "out")
    done = parplan(*request, "--global-batch", "8", *options, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "plans; the fastest, proven: " in done.stdout
    with (tmp_path / "out" / "searches.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["planner"] for row in rows} == {"beam", "grid"}
    assert all(float(row["regret"]) >= 0 for row in rows)
    assert (tmp_path / "out" / "regret.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--planners", "bean"), "unknown planner 'bean'; did you mean beam or"),
        (("--seeds", "0"), "--seeds: at least 1, got 0"),
        (("--space", "ap"), "--space ap: a planner needs everything, full, or a TOML file"),
    ],
)
def test_mistakes(tmp_path: Path, options: tuple[str, ...], message: str) -> None:
    request = ("compare-planners", "llama3-8b", "--cluster", "8xh100", "--seq-len", "2048")
    done = parplan(*request, "--global-batch", "8", *options, cwd=tmp_path)
    assert done.returncode == 2
    assert message in done.stderr
