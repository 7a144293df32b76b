"""Intervals from past accuracy: which runs count as alike, and that nothing else uses them."""

import ast
import dataclasses
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parplan.errors import ParplanError
from parplan.experiments.accuracy.page import shown_table
from parplan.experiments.cases.evaluate import Outcome, evaluate
from parplan.experiments.cases.residuals import (
    FEWEST,
    ratios_of,
    residuals_of,
    residuals_toml,
    weighted_quantile,
)
from parplan.experiments.cli import main
from parplan.hardware.machines.presets import accelerator_names, cluster_preset
from parplan.planners.costs.trial import Trial
from parplan.planners.explain.uncertainty import indistinguishable, interval, pairs_like
from parplan.sim.analysis.residuals import (
    FAMILIES,
    RESIDUALS,
    Pairs,
    Ratios,
    Residuals,
    Setup,
    family_of,
    read_residuals,
    setup_of,
)
from parplan.sim.plan import Plan, zero_fields
from tests.experiments.cases.published_cases import case

ROOT = Path(__file__).parents[3]
H100, MI250 = cluster_preset("8xh100"), cluster_preset("4xLarge.2048GB")
PLAN = Plan(data_parallel=8)


def ratios(
    family: str, setup: Setup, runs: int = 100, sources: int = 9, low: float = 0.9
) -> Ratios:
    return Ratios(
        pool="reported", family=family, setup=setup, runs=runs, sources=sources,
        low=low, median=1.0, high=1.2,
    )  # fmt: skip


def test_like_runs_are_of_the_same_architecture_and_setup_if_there_are_enough() -> None:
    rows = (ratios("Hopper", "neither"), ratios("any", "neither", low=0.7), ratios("any", "any"))
    found = interval(Residuals(ratios=rows), H100, PLAN, 2.0)
    assert found is not None
    assert (found.low_s, found.high_s) == (1.8, 2.4)
    assert found.like == rows[0]
    assert str(found) == "80 % of like published runs: 1.8 to 2.4 s; n = 100"
    few = (dataclasses.replace(rows[0], runs=19), *rows[1:])
    assert interval(Residuals(ratios=few), H100, PLAN, 2.0).like == rows[1]  # type: ignore[union-attr]
    few_teams = (dataclasses.replace(rows[0], sources=8), *rows[1:])
    assert interval(Residuals(ratios=few_teams), H100, PLAN, 2.0).like == rows[1]  # type: ignore[union-attr]
    assert interval(Residuals(ratios=rows), MI250, PLAN, 2.0).like == rows[1]  # type: ignore[union-attr]
    sharded = dataclasses.replace(PLAN, **zero_fields(3))
    assert interval(Residuals(ratios=rows), H100, sharded, 2.0).like == rows[2]  # type: ignore[union-attr]
    assert interval(Residuals(ratios=rows), H100, PLAN, 2.0, "calibration") is None


def test_plans_that_are_nearer_than_pairs_were_off_cannot_be_told_apart() -> None:
    pairs = Pairs(pool="reported", family="any", sweeps=10, pairs=30, apart=1.1)
    trials = [
        Trial(plan=dataclasses.replace(PLAN, num_micro_batches=n), step_s=s, memory_bytes=(1.0,))
        for n, s in ((1, 1.0), (2, 1.2), (3, 1.09), (4, 1.05))
    ]
    same = indistinguishable([*trials, Trial(plan=PLAN, reason="no")], trials[0], pairs)
    assert [t.step_s for t in same] == [1.05, 1.09]
    assert pairs_like(Residuals(pairs=(pairs,)), H100) == pairs
    assert pairs_like(Residuals(pairs=(dataclasses.replace(pairs, sweeps=9),)), H100) is None


@pytest.mark.parametrize(
    ("plan", "setup"),
    [
        (PLAN, "neither"),
        (Plan(num_stages=2), "pipeline"),
        (Plan(num_stages=2, data_parallel=2, **zero_fields(3)), "ZeRO-3"),
    ],
)
def test_the_setup_of_a_plan(plan: Plan, setup: str) -> None:
    assert setup_of(plan) == setup


def test_every_published_accelerator_has_a_family() -> None:
    assert {family_of(name) for name in accelerator_names()} <= {*FAMILIES, "other"}
    assert family_of("h100-sxm") == "Hopper"
    assert family_of("l4") == "Ada"
    assert family_of("abacus") == "other"


@given(st.lists(st.tuples(st.floats(0, 9), st.floats(0.1, 9)), min_size=1, max_size=9))
def test_a_weighted_quantile_has_its_share_at_or_below(pairs: list[tuple[float, float]]) -> None:
    values, weights = zip(*pairs, strict=True)
    found = weighted_quantile(values, weights, 0.8)
    whole = sum(weights)
    assert sum(w for v, w in pairs if v <= found) >= 0.8 * whole * (1 - 1e-9)
    assert sum(w for v, w in pairs if v < found) <= 0.8 * whole * (1 + 1e-9)


def outcomes(count: int) -> list[Outcome]:
    """Runs whose measured steps are 1.0, 1.1, ... times the predicted ones."""
    predicted = [
        evaluate(case(id=f"{i}", parallel__tp=2 ** (i % 3), parallel__dp=8 >> (i % 3)))
        for i in range(count)
    ]
    found = []
    for i, o in enumerate(predicted):
        assert o.step_s is not None
        measured = dataclasses.replace(o.case.measured, step_time_s=(1 + 0.1 * i) * o.step_s)
        found.append(dataclasses.replace(o, case=dataclasses.replace(o.case, measured=measured)))
    return found


def test_the_table_of_made_up_runs() -> None:
    assert residuals_of("reported", outcomes(FEWEST - 1)).ratios == ()
    table = residuals_of("calibration", outcomes(11))
    by_kind = {(row.family, row.setup): row for row in table.ratios}
    assert set(by_kind) == {(f, s) for f in ("Ampere", "any") for s in ("neither", "any")}
    row = by_kind["Ampere", "neither"]
    assert (row.runs, row.sources) == (11, 1)
    assert (row.low, row.median, row.high) == pytest.approx((1.1, 1.5, 1.9))


def test_every_source_counts_alike_and_a_further_one_is_allowed_for() -> None:
    large, small = (
        outcomes(11),
        [
            dataclasses.replace(o, case=dataclasses.replace(o.case, group=f"small-{i}"))
            for i, o in enumerate(outcomes(11)[:9])
        ],
    )
    table = residuals_of("reported", [*large, *small]).ratios
    assert table == ratios_of("reported", [*large, *small], sources_alike=True)
    (row,) = [r for r in table if (r.family, r.setup) == ("any", "any")]
    assert (row.runs, row.sources) == (20, 10)
    # Of ten sources 99 %, not 90 %: all but a tenth of the large one, which has 2.0 in eleven runs.
    assert (row.low, row.high) == pytest.approx((1.0, 1.9))
    # The middle of ten sources, not of the runs: the fifth of the small ones.
    assert row.median == pytest.approx(1.4)


def test_the_table_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "residuals.toml"
    table = residuals_of("reported", outcomes(12))
    path.write_text(residuals_toml([table]))
    found = read_residuals(path)
    assert [dataclasses.replace(r, low=1, median=1, high=1) for r in found.ratios] == [
        dataclasses.replace(r, low=1, median=1, high=1) for r in table.ratios
    ]
    for one, other in zip(found.ratios, table.ratios, strict=True):
        assert math.isclose(one.high, other.high, rel_tol=1e-4)
    path.write_text(path.read_text().replace("runs = ", "runz = ", 1))
    with pytest.raises(ParplanError, match=r"residuals\.toml.*ratios.*runz"):
        read_residuals(path)


def test_the_shipped_table_is_of_the_runs_of_the_accuracy_page() -> None:
    """Both are written by `parplan validate`; one is out of date when they differ."""
    page = shown_table((ROOT / "docs" / "accuracy.md").read_text(encoding="utf-8"))
    (line,) = [line for line in page.splitlines() if line.startswith("all without *")]
    timed = int(line.removeprefix("all without *").split()[1])
    table = read_residuals()
    (every,) = [
        r for r in table.ratios if (r.pool, r.family, r.setup) == ("reported", "any", "any")
    ]
    assert every.runs == timed
    assert {row.pool for row in table.ratios} == {"reported", "calibration"}


def test_no_prediction_depends_on_past_accuracy() -> None:
    users = set()
    for folder in ("hardware", "sim", "planners", "backend", "experiments"):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if (
                    isinstance(node, ast.ImportFrom)
                    and node.module == "parplan.sim.analysis.residuals"
                ):
                    users.add(path.relative_to(ROOT).as_posix())
    assert users == {
        "planners/explain/uncertainty.py",
        "experiments/accuracy/kinds.py",
        "experiments/cases/leave_one_out.py",
        "experiments/cases/residuals.py",
        "experiments/planning/explain.py",
        "experiments/commands/predict/import_.py",
        "experiments/interop/gap.py",
        "experiments/planning/decision.py",
        "experiments/planning/summary.py",
        "experiments/report/decision.py",
        "experiments/commands/study/validate.py",
    }
    assert RESIDUALS.is_file()


def test_a_folder_that_is_not_there_is_refused_before_predicting(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    path = tmp_path / "file" / "residuals.toml"
    assert main(["validate", "--write-residuals", str(path)]) != 0
    assert "validate: " not in capsys.readouterr().err
