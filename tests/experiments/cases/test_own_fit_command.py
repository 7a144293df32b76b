"""`parplan validate --fit`, `--fit-study`, `--attribute`: what they print and write; refusals."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from parplan.experiments.accuracy.page import END, STUDY, begin, shown_table
from parplan.experiments.cases.evaluate import evaluate
from parplan.experiments.cases.held_out import CALIBRATION, VALIDATION
from parplan.experiments.cases.own import study as own_study
from parplan.experiments.cases.own.constants import OWN_CONSTANTS
from parplan.experiments.cases.own.machine_factors import setting_named
from parplan.experiments.cases.own.report import STUDY_HEADER
from parplan.experiments.cases.read import case_of
from parplan.experiments.cli import main
from parplan.sim.software.framework import framework
from tests.experiments.cases.published_cases import table, write_cases

PAGE = Path(__file__).parents[3] / "docs" / "accuracy.md"

PLANS: list[dict[str, object]] = [
    {"parallel__tp": 1},
    {"parallel__tp": 2},
    {"parallel__tp": 4},
    {"parallel__tp": 1, "parallel__micro_batch": 1},
    {"parallel__tp": 1, "model__seq_len": 2048},
    {"parallel__tp": 2, "model__hidden": 2048},
]


def slower(name: str, factor: float, **changes: object) -> dict[str, Any]:
    """A run whose step takes `factor` times what is predicted."""
    changes = {"parallel__dp": None, "id": name, **changes}
    step_s = evaluate(case_of(table(**changes), "here")).step_s
    assert step_s is not None
    return table(**changes, measured={"step_time_s": factor * step_s})


def own(factor: float = 1.5, start: int = 0) -> list[dict[str, Any]]:
    return [slower(f"own-{i + start}", factor, **plan) for i, plan in enumerate(PLANS)]


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


def test_a_fit_is_reported_and_can_be_used(
    tmp_path: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = write_cases(tmp_path / "runs.jsonl", *own())
    others = write_cases(tmp_path / "others.jsonl", slower("other", 1.5, parallel__tp=8), own()[0])
    assert main(["validate", "--fit", str(runs), str(others), "-o", str(out)]) == 0
    captured = capsys.readouterr()
    text = captured.out
    assert "held out: 6 parts" in text
    # A run that was fitted to is no further run.
    assert any(
        line.split()[:6] == ["shipped", "constants,", "further", "runs", "1", "33.3%"]
        for line in text.splitlines()
    )
    assert "next: measure own-" in text
    assert "shipped constants are kept" not in text
    constants = {row["constant"]: row for row in rows(out / "constants.csv")}
    assert list(constants) == [constant.name for constant in OWN_CONSTANTS]
    assert float(constants["network_factor"]["change"]) == 0
    assert all(float(row["standard_error"]) > 0 for row in constants.values())
    for row in rows(out / "runs.csv"):
        assert float(row["error_shipped"]) == pytest.approx(1 / 1.5 - 1)
        assert abs(float(row["error_held_out"])) < 1 - 1 / 1.5
    name = f"{out / 'software.toml'}:own"
    assert name in captured.err
    found = setting_named(name)
    assert found.framework.step_s == pytest.approx(float(constants["step_s"]["fitted"]), rel=1e-5)
    assert found.machine.products_factor == pytest.approx(
        float(constants["products_factor"]["fitted"]), rel=1e-5
    )
    spreads = [float(r["relative_standard_deviation"]) for r in rows(out / "candidates.csv")]
    assert spreads == sorted(spreads, reverse=True)


def test_candidates_may_be_given(
    tmp_path: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = write_cases(tmp_path / "runs.jsonl", *own())
    offered = write_cases(
        tmp_path / "offered.jsonl",
        table(id="eight", parallel__tp=8, parallel__dp=None, measured={}),
        table(id="known", parallel__tp=1, parallel__dp=None, measured={}),
        table(id="strange", hardware__key="Z80", measured={}),
    )
    words = ["validate", "--fit", str(runs), "--candidates", str(offered), "-o", str(out)]
    assert main(words) == 0
    assert "next: measure eight: " in capsys.readouterr().out
    assert [row["id"] for row in rows(out / "candidates.csv")] == ["eight"]


def test_a_fit_that_does_not_help_is_not_kept(
    tmp_path: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Exact: nothing can be better.
    runs = write_cases(tmp_path / "runs.jsonl", *own(1.0))
    assert main(["validate", "--fit", str(runs), "-o", str(out)]) == 0
    assert "the shipped constants are kept" in capsys.readouterr().out
    found = setting_named(f"{out / 'software.toml'}:own")
    assert found.framework.kernel_slowdown == framework("fused").kernel_slowdown
    assert found.machine.products_factor == 1


@pytest.mark.parametrize(
    ("name", "runs", "message"),
    [
        ("none", [], "no runs"),
        ("few", own()[:4], "a fit needs 5 runs with a step time that can be predicted, or more; "),
        (
            "same",
            [slower(f"{i}", 1.0 + i / 10) for i in range(6)],
            "all 6 runs have the same configuration",
        ),
        ("untimed", [table(id=f"{i}", measured={}) for i in range(6)], "a fit needs 5 runs"),
        ("twice", [own()[0], *own()], "id: 'own-0' is given to several runs"),
    ],
)
def test_runs_that_cannot_be_fitted_to_are_refused_in_one_line(
    name: str,
    runs: list[dict[str, Any]],
    message: str,
    tmp_path: Path,
    out: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = write_cases(tmp_path / f"{name}.jsonl", *runs)
    assert main(["validate", "--fit", str(path), "-o", str(out)]) == 2
    *left_out, line = capsys.readouterr().err.splitlines()
    assert line.startswith(f"parplan: error: {path}: {message}")
    assert all("left out: " in said for said in left_out)
    assert bool(left_out) == (name == "untimed")
    assert not out.exists()


def test_runs_that_only_report_accuracy_are_refused(
    tmp_path: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["validate", "--fit", str(VALIDATION), "-o", str(out)]) == 2
    assert "to which nothing may be fitted" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("FILE:nobody", "software.toml 'nobody'"),
        ("FILE", "expected "),
        ("FILE:machine", "[machine] holds factors of machines"),
        ("FILE:bad", "machine.bad: products_factor: must be positive"),
        ("FILE:typo", "machine.typo: unknown key 'product_factor'"),
        ("fusd", "unknown software 'fusd'"),
    ],
)
def test_wrong_software_is_one_line(
    name: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "software.toml"
    path.write_text("[machine.bad]\nproducts_factor = 0\n[machine.typo]\nproduct_factor = 1\n")
    words = ["plan", "gpt3-175b", "--cluster", "64xh100", "--seq-len", "2048"]
    words += ["--global-batch", "64", "--software", name.replace("FILE", str(path))]
    assert main(words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("parplan: error: ")
    assert message in line


def test_the_study_fits_to_some_runs_and_predicts_the_others(
    tmp_path: Path,
    out: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(own_study, "RUNS_FOR_A_STUDY", 11)
    runs = [*own(), *(slower(f"b{i}", 1.5, parallel__global_batch=64 * i) for i in range(2, 7))]
    path = write_cases(tmp_path / "runs.jsonl", *runs, table(id="few", group="few"))
    page = tmp_path / "page.md"
    page.write_text(f"Before.\n{begin(STUDY)}\n{END}\nAfter.\n")
    words = ["validate", str(path), "--fit-study", "-o", str(out)]
    assert main([*words, "--write-docs", str(page)]) == 0
    printed = capsys.readouterr().out
    lines = printed.splitlines()
    assert lines[0].split() == list(STUDY_HEADER)
    assert [line.split()[0] for line in lines[1:]] == ["made-up"]
    before, after = (float(cell.rstrip("%")) for cell in lines[1].split()[2:4])
    assert after < before
    (draw,) = rows(out / "study.csv")
    assert draw["others"] == "3"
    assert len(set(draw["fitted_to"].split())) == own_study.FITTED_RUNS
    assert shown_table(page.read_text(), STUDY) == printed.rstrip("\n")
    # The same seed draws the same.
    assert main(words) == 0
    assert capsys.readouterr().out == printed


def test_the_page_has_the_study_of_the_shipped_runs() -> None:
    lines = shown_table(PAGE.read_text(encoding="utf-8"), STUDY).splitlines()
    assert lines[0].split() == list(STUDY_HEADER)
    assert len(lines) > 2
    assert lines[-1].startswith("median of sources")


def test_what_is_wrong_is_found(
    tmp_path: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Runs with tensor parallelism take longer than predicted, whatever else differs.
    runs = [
        slower(
            f"{tp} {size} {length}",
            1.0 + 0.2 * (tp > 1),
            parallel__tp=tp,
            parallel__micro_batch=size,
            model__seq_len=length,
        )
        for tp in (1, 2, 4)
        for size in (1, 2)
        for length in (1024, 2048)
    ]
    path = write_cases(tmp_path / "runs.jsonl", *runs)
    assert main(["validate", str(path), "--attribute", "made-up", "-o", str(out)]) == 0
    text = capsys.readouterr().out
    assert text.splitlines()[0].startswith("tp explains most of the errors of made-up: 100%")
    levels = {r["value"]: r for r in rows(out / "attribution.csv") if r["feature"] == "tp"}
    assert float(levels["1"]["bias"]) == pytest.approx(0)
    assert float(levels["4"]["bias"]) == pytest.approx(1 / 1.2 - 1)
    assert float(levels["4"]["runs"]) == 4


@pytest.mark.parametrize(
    ("group", "message"),
    [("nobody", "known: made-up"), ("made-up", "attribution needs 8 runs")],
)
def test_attribution_of_too_little_is_refused(
    group: str, message: str, tmp_path: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_cases(tmp_path / "runs.jsonl", *own())
    assert main(["validate", str(path), "--attribute", group, "-o", str(out)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"parplan: error: --attribute {group}: {message}")


def test_an_example_from_the_calibration_file_is_fitted_to(tmp_path: Path, out: Path) -> None:
    lines = CALIBRATION.read_text().splitlines()
    own_lines = [x for x in lines if json.loads(x)["group"] == "vtrain-single"][:48:8]
    path = tmp_path / "runs.jsonl"
    path.write_text("\n".join(own_lines))
    assert main(["validate", "--fit", str(path), "-o", str(out)]) == 0
    assert len(rows(out / "runs.csv")) == len(own_lines)
