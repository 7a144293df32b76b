"""Experiments of publications: tables with errors, figures, folders that are not replaced."""

import csv
import json
from pathlib import Path

import pytest

from parplan.errors import ParplanError
from parplan.experiments import reproduce
from parplan.experiments.cli import main
from parplan.experiments.commands.study import reproduce as reproduce_command
from parplan.experiments.output.folder import UNFINISHED
from parplan.experiments.reproduce import NAMES, experiment
from parplan.experiments.reproduce.experiment import Result, relative, table
from parplan.experiments.reproduce.published import read_in_paper

ROOT = Path(__file__).parents[3]
REDUCED: dict[str, Result] = {}


def reduced(name: str) -> Result:
    """The reduced set of an experiment, run once."""
    if name not in REDUCED:
        REDUCED[name] = experiment(name).run(True)
    return REDUCED[name]


@pytest.mark.parametrize("name", NAMES)
def test_an_experiment_says_how_far_off_it_is(name: str) -> None:
    found, result = experiment(name), reduced(name)
    assert found.question.endswith("?")
    assert all((found.source, found.setup, found.published))
    columns = list(result.rows[0])
    assert all(list(row) == columns for row in result.rows)
    assert result.errors
    assert len(result.summary()) >= len(result.errors)
    assert table(result.rows).count("\n") == len(result.rows)
    for axes in result.figure.axes:
        assert axes.get_ylabel()
        drawn = [*axes.lines, *axes.patches, *axes.collections]
        assert drawn


@pytest.mark.parametrize("name", NAMES)
def test_errors_are_predicted_over_published(name: str) -> None:
    checked = 0
    for row in reduced(name).rows:
        numbers = {k: v for k, v in row.items() if isinstance(v, (int, float))}
        published = [value for column, value in numbers.items() if "published" in column]
        possible = [relative(a, b) for a in numbers.values() for b in published]
        for column, value in numbers.items():
            if column.endswith("error"):
                assert any(value == pytest.approx(one, abs=1e-9) for one in possible), row
                checked += 1
    assert checked


def test_published_numbers_are_those_of_the_papers() -> None:
    rows = reduced("megatron-weak-scaling").rows
    published = [round(row["published [TFLOP/s per GPU]"]) for row in rows]
    assert published == [137, 138, 142, 135, 138]  # Table 1 of arXiv:2104.04473
    layers = reduced("korthikanti-time").rows
    assert [row["published [s]"] for row in layers[:2]] == [0.0077, 0.0119]  # Its table 4
    candidates = [row["published candidates"] for row in reduced("ap").rows]
    assert candidates == [30, 6, 16]


def test_what_follows_from_formulas_is_exact() -> None:
    for name in ("bubble-curves", "zero-memory"):
        worst = max(abs(row["error"]) for row in reduced(name).rows)
        # The labels of ZeRO's figure have two or three digits.
        assert worst < (1e-9 if name == "bubble-curves" else 0.014)
    rates = [row["bubble difference"] for row in reduced("zero-bubble").rows]
    assert max(abs(rate) for rate in rates if rate is not None) < 2e-4


def test_every_number_that_was_read_says_where_and_how() -> None:
    path = ROOT / "experiments/papers/read_in_papers.json"
    tables = json.loads(path.read_text(encoding="utf-8"))
    tables.pop("about")
    for name, one in tables.items():
        assert one["source"], name
        assert one["how"].split(":")[0].split(",")[0] in ("printed", "figure", "run"), name
        assert one["unit"], name
    used = "".join(path.read_text() for path in (ROOT / "experiments/reproduce").rglob("*.py"))
    for name in tables:
        assert f'"{name}"' in used or name in ("sc21-pipeline-data", "sc21-tensor-data"), name
    assert read_in_paper("sc21-pipeline-data")["points"]


def run(*words: str, out: Path) -> int:
    return main(["reproduce", *words, "--quick", "-o", str(out)])


def test_the_command_writes_table_figure_and_manifest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("zero-memory", out=tmp_path) == 0
    folder = tmp_path / "zero-memory"
    names = {"figure.png", "manifest.json", "summary.txt", "table.csv"}
    assert {path.name for path in folder.iterdir()} == names
    said = capsys.readouterr().out
    assert (folder / "summary.txt").read_text() in said
    assert "error: median" in said
    with (folder / "table.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert float(rows[1]["predicted [GB]"]) == pytest.approx(31.41, abs=0.01)
    assert json.loads((folder / "manifest.json").read_text())["inputs"]["quick"] is True


def test_own_results_are_replaced_and_other_files_stay(tmp_path: Path) -> None:
    assert run("bubble-curves", out=tmp_path) == 0
    folder = tmp_path / "bubble-curves"
    before = (folder / "manifest.json").read_bytes()
    (folder / "notes.txt").write_text("mine")
    assert run("bubble-curves", out=tmp_path) == 0
    assert (folder / "manifest.json").read_bytes() != before
    assert (folder / "notes.txt").read_text() == "mine"


def test_all_of_them_goes_on_where_it_was_interrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for module in (reproduce, reproduce_command):
        monkeypatch.setattr(module, "NAMES", ("zero-memory", "bubble-curves"))
    assert run("zero-memory", out=tmp_path) == 0
    done = (tmp_path / "zero-memory" / "manifest.json").read_bytes()
    # What an interrupt leaves: a folder without a manifest, with a list of its files.
    (tmp_path / "bubble-curves").mkdir()
    (tmp_path / "bubble-curves" / UNFINISHED).write_text("table.csv\n")
    (tmp_path / "bubble-curves" / "table.csv").write_text("half")
    assert run("all", out=tmp_path) == 0
    assert "zero-memory: is there already" in capsys.readouterr().err
    assert (tmp_path / "zero-memory" / "manifest.json").read_bytes() == done
    assert (tmp_path / "bubble-curves" / "manifest.json").is_file()
    with pytest.raises(ParplanError, match="zero-memory: is of a reduced set; --force"):
        reproduce_command.overview(tmp_path, quick=False)
    lines = reproduce_command.overview(tmp_path, quick=True).splitlines()
    assert [line.split()[0] for line in lines[1:]] == ["zero-memory", "bubble-curves"]
    page = tmp_path / "page.md"
    page.write_text("no place")
    assert main(["reproduce", "all", "--write-docs", str(page), "-o", str(tmp_path / "x")]) == 2
    assert "no place for the table" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


def test_unknown_names_suggest_near_ones(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("megatron-interleave", out=tmp_path) == 2
    assert "did you mean megatron-interleaving" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_the_list_has_them_all(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reproduce", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:]] == list(NAMES)
    assert all(" s  " in line for line in lines[1:])
