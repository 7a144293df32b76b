"""`parplan validate` on made-up runs: what it prints and writes, and its refusals."""

import csv
import re
from pathlib import Path
from typing import Any

import pytest

from parplan.errors import ParplanError
from parplan.experiments.accuracy.page import (
    BEGIN,
    END,
    KINDS,
    WORST,
    begin,
    shown_table,
    written_page,
)
from parplan.experiments.accuracy.table import FITTED, HEADER, summary
from parplan.experiments.cases.evaluate import Outcome, evaluate
from parplan.experiments.cases.read import Case, read_cases
from parplan.experiments.cli import main
from parplan.experiments.commands.study import validate as validate_command
from parplan.sim.analysis.residuals import read_residuals
from tests.commands import parplan
from tests.experiments.cases.published_cases import table, write_cases


def runs() -> list[dict[str, Any]]:
    """A sweep of three, one that ran out of memory, one that cannot be laid out; two sources."""
    return [
        *(table(id=f"one-{tp}", parallel__tp=tp, parallel__dp=8 // tp) for tp in (1, 2, 4)),
        table(id="oom", measured={"oom": True}, quality="A-oom", core=False),
        table(id="unknown", hardware__key="Z80", quality="B", complete=False, core=False),
        table(id="other", group="other", measured={"tokens_per_s": 1e5, "peak_memory_gib": 20}),
    ]


@pytest.fixture
def cases(tmp_path: Path) -> Path:
    return write_cases(tmp_path / "runs.jsonl", *runs())


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_file_is_predicted_run_by_run(cases: Path, tmp_path: Path) -> None:
    done = parplan("validate", cases, "-o", "out", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].split() == list(HEADER)
    assert [line.split()[:3] for line in lines[1:3]] == [["made-up", "5", "3"], ["other", "1", "1"]]
    assert "predicted: 5 of 6 runs, 5 of 5 that are described completely" in done.stdout
    assert "fits in memory: 3 of 3 runs that ran; does not: 0 of 1" in done.stdout
    assert "accuracy.png, manifest.json, predictions.csv" in done.stderr
    written = rows(tmp_path / "out" / "predictions.csv")
    assert [row["id"] for row in written] == [run["id"] for run in runs()]
    for row in written[:3]:
        ratio = float(row["predicted_step_s"]) / float(row["measured_step_s"])
        assert float(row["relative_error"]) == pytest.approx(ratio - 1)
    assert "Z80" in written[4]["not_predicted_because"]
    assert float(written[5]["reported_peak_bytes"]) == 20 * 2**30
    assert (tmp_path / "out" / "accuracy.png").read_bytes().startswith(b"\x89PNG")


def test_several_processes_find_the_same_in_the_same_order(cases: Path, tmp_path: Path) -> None:
    # One more than are handed over together, so that there is work for two.
    many = write_cases(tmp_path / "many.jsonl", *(table(id=f"{i}") for i in range(9)), *runs())
    for jobs in ("1", "2"):
        done = parplan("validate", many, "-o", jobs, "--jobs", jobs, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    one, two = ((tmp_path / jobs / "predictions.csv").read_bytes() for jobs in ("1", "2"))
    assert one == two
    assert (tmp_path / "1/accuracy.png").read_bytes() == (tmp_path / "2/accuracy.png").read_bytes()


def test_one_source_may_be_chosen(
    cases: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["validate", str(cases), "--group", "other", "-o", str(tmp_path / "out")]
    assert main(arguments) == 0
    assert "made-up" not in capsys.readouterr().out
    assert [row["id"] for row in rows(tmp_path / "out" / "predictions.csv")] == ["other"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["none.jsonl"], "none.jsonl: cannot be read"),
        (["runs.jsonl", "none.jsonl"], "none.jsonl: cannot be read"),
        (["runs.jsonl", "--group", "nobody"], "--group nobody: known: made-up, other"),
        (["broken.jsonl"], "broken.jsonl: line 2: not valid JSON"),
        (["empty.jsonl"], "empty.jsonl: no runs"),
        (["runs.jsonl", "--jobs", "0"], "--jobs: must be at least 1, got 0"),
        (["runs.jsonl", "--write-docs", "none.md"], "none.md: cannot be read"),
        (["runs.jsonl", "--write-docs", "runs.jsonl"], "runs.jsonl: no place for the table"),
        (["runs.jsonl", "-o", "runs.jsonl"], "runs.jsonl: cannot be written to"),
    ],
)
def test_mistakes_are_one_line(
    words: list[str],
    message: str,
    cases: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.jsonl").write_text("\n")
    (tmp_path / "broken.jsonl").write_text(cases.read_text().splitlines()[0] + "\n{\n")
    before = cases.read_bytes()
    assert main(["validate", *words]) == 2
    (line,) = [x for x in capsys.readouterr().err.splitlines() if "error" in x]
    assert line.startswith(f"parplan: error: {message}")
    assert cases.read_bytes() == before


def test_a_wrong_number_is_refused_in_one_line(cases: Path, tmp_path: Path) -> None:
    done = parplan("validate", cases, "--jobs", "many", cwd=tmp_path)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert "--jobs" in done.stderr


def test_an_interrupt_keeps_what_is_done_beside_the_last_whole_results(
    cases: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "out"
    arguments = ["validate", str(cases), "-o", str(out)]
    assert main(arguments) == 0
    whole = (out / "predictions.csv").read_bytes()

    def interrupted(case: Case, **given: Any) -> Outcome:
        if case.id == "one-4":
            raise KeyboardInterrupt
        return evaluate(case, **given)

    monkeypatch.setattr(validate_command, "evaluate", interrupted)
    assert main(arguments) == 130
    assert "2 of 6 runs done" in capsys.readouterr().err
    assert (out / "predictions.csv").read_bytes() == whole
    assert [row["id"] for row in rows(out / "predictions-partial.csv")] == ["one-1", "one-2"]
    monkeypatch.undo()
    assert main(arguments) == 0
    assert not (out / "predictions-partial.csv").exists()


def test_sources_that_are_fitted_to_are_marked(cases: Path) -> None:
    outcomes = [evaluate(case) for case in read_cases(cases)]
    fitted = read_cases(write_cases(cases.with_name("more.jsonl"), table(group="simumax-b200")))
    text = summary([*outcomes, *map(evaluate, fitted)])
    assert "simumax-b200 *" in text
    assert re.search(r"^all without \* +6 ", text, flags=re.MULTILINE)
    assert "*: constants" in text
    assert "*" not in summary(outcomes)


PAGE = Path(__file__).parents[3] / "docs" / "accuracy.md"


@pytest.fixture
def page(tmp_path: Path) -> Path:
    path = tmp_path / "page.md"
    places = f"{BEGIN}\nan old table\n{END}\n\n{begin(WORST)}\nold runs\n{END}"
    places += f"\n\n{begin(KINDS)}\nold kinds\n{END}"
    path.write_text(f"Before.\n\n{places}\n\nAfter.\n")
    return path


def test_the_table_is_put_into_a_page(
    cases: Path, page: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["validate", str(cases), "-o", str(tmp_path / "out"), "--write-docs", str(page)]
    assert main(arguments) == 0
    text = page.read_text()
    assert text.startswith("Before.\n\n")
    assert text.endswith("\n\nAfter.\n")
    assert "an old table" not in text
    assert shown_table(text) == capsys.readouterr().out.rstrip("\n")
    assert shown_table(text, WORST).splitlines()[0].split()[0] == "run"
    assert shown_table(text, KINDS).split()[0] == "architecture"
    assert page.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    # Once more changes nothing.
    assert written_page(page, shown_table(text)) == text


def test_a_page_without_a_table_is_named() -> None:
    with pytest.raises(ParplanError, match="no table between"):
        shown_table("nothing")


def test_the_page_of_the_documentation_has_the_table_of_the_shipped_runs() -> None:
    lines = shown_table(PAGE.read_text(encoding="utf-8")).splitlines()
    assert lines[0].split() == list(HEADER)
    names = [line.split()[0] for line in lines[1:]]
    shipped = read_cases(validate_command.VALIDATION)
    groups = sorted({case.group for case in shipped})
    assert names[: len(groups)] == groups
    for group, line in zip(groups, lines[1:], strict=False):
        count = int(line.removeprefix(group).replace("*", " ").split()[0])
        assert count == sum(case.group == group for case in shipped)
    assert any(line.startswith("fits in memory: ") for line in lines)
    assert lines[-1].startswith("predicted: ")


def test_past_accuracy_is_written_by_pool_without_sources_that_are_fitted_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (fitted, *_) = sorted(FITTED)
    held_out = [
        *(table(id=f"{i}", parallel__micro_batch=2 ** (i % 3)) for i in range(9)),
        table(id="left out", group=fitted),
    ]
    for name, tables in (("VALIDATION", held_out), ("CALIBRATION", held_out[:8])):
        path = write_cases(tmp_path / f"{name}.jsonl", *tables)
        monkeypatch.setattr(validate_command, name, path)
    where = tmp_path / "residuals.toml"
    assert main(["validate", "--write-residuals", str(where)]) == 0
    found = read_residuals(where)
    runs = {(row.pool, row.family, row.setup): row.runs for row in found.ratios}
    assert runs["reported", "any", "any"] == 9
    assert runs["calibration", "any", "any"] == 8
    # Nine runs of three plans: repeats of one plan are no pairs.
    (pairs,) = [p for p in found.pairs if (p.pool, p.family) == ("reported", "any")]
    assert pairs.pairs <= 3 * 9
