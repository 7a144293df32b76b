"""Folders of studies: what parplan wrote is replaced, and nothing else."""

from pathlib import Path

import pytest

from parplan.errors import ParplanError
from parplan.experiments.output.folder import REPORT
from parplan.experiments.output.journal import Row, RowJournal
from parplan.experiments.output.new_folder import is_done, new_folder
from parplan.experiments.report.render import EXPLORER, LOG
from parplan.experiments.report.render import REPORT as PAGE


def row_as_it_is(key: Row, row: Row) -> Row:
    return row


def filled(path: Path) -> None:
    output = new_folder(path, ["study"], force=False)
    output.write_text("old.txt", "old")
    output.write_manifest({})


@pytest.mark.parametrize("force", [True, False])
def test_own_results_are_replaced_and_other_files_stay(tmp_path: Path, force: bool) -> None:
    path = tmp_path / "out"
    filled(path)
    assert is_done(path)
    (path / "mine.txt").write_text("mine")
    for name in REPORT:
        (path / name).write_text("of before")
    output = new_folder(path, [], force=force, unfinished=("rows.jsonl",))
    with pytest.raises(ParplanError, match=r"mine\.txt: is there already, and parplan did not"):
        output.write_text("mine.txt", "other")
    left = {entry.name for entry in path.iterdir() if not entry.name.startswith(".")}
    assert left == {"mine.txt"}
    assert not is_done(path)


def test_what_a_report_adds_is_known() -> None:
    assert {*REPORT} == {LOG, PAGE, EXPLORER}


def test_a_manifest_cannot_name_files_elsewhere(tmp_path: Path) -> None:
    path, other = tmp_path / "out", tmp_path / "other.txt"
    filled(path)
    other.write_text("other")
    (path / "manifest.json").write_text(
        '{"arguments": [], "files": ["../other.txt", "..", "old.txt"]}'
    )
    new_folder(path, [], force=True)
    assert other.read_text() == "other"
    assert not (path / "old.txt").exists()
    (path / "manifest.json").write_text("[]")
    with pytest.raises(ParplanError, match="is not a manifest of parplan"):
        new_folder(path, [], force=True)


def test_unfinished_work_is_taken_up(tmp_path: Path) -> None:
    path = tmp_path / "out"
    output = new_folder(path, [], force=False)
    with RowJournal(output.path / "rows.jsonl", {"of": 1}, row_as_it_is) as journal:
        assert journal.add({"n": 1}, {"value": (1, 2)}) == {"value": [1, 2]}
    new_folder(path, [], force=False, unfinished=("rows.jsonl",))
    with RowJournal(path / "rows.jsonl", {"of": 1}, row_as_it_is) as journal:
        assert journal.find({"n": 1}) == {"value": [1, 2]}
        assert journal.find({"n": 2}) is None
    with pytest.raises(ParplanError, match="of other work that was interrupted"):
        RowJournal(path / "rows.jsonl", {"of": 2}, row_as_it_is)
    (path / "rows.jsonl").write_text("{}\nnothing\n")
    with pytest.raises(ParplanError, match="not a journal of this version"):
        RowJournal(path / "rows.jsonl", {}, row_as_it_is)
