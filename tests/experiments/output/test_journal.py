"""Journals: whole after an end at any moment, and for one writer at a time."""

import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parplan._files import write_whole
from parplan._journal import Journal, journal_bytes, read_journal
from parplan.errors import ParplanError
from parplan.experiments.output.folder import UNFINISHED, OutputFolder
from parplan.experiments.output.new_folder import new_folder

HEAD = {"of": "a test"}
ROWS = [{"n": n, "text": "ä\u2028\n" * n, "value": n / 3} for n in range(6)]
WHOLE = journal_bytes([HEAD, *ROWS])


def test_rows_come_back_as_they_were(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    with Journal(path, HEAD) as journal:
        assert journal.add(ROWS[0]) == ROWS[0]
        journal.extend(ROWS[1:4])
    with Journal(path, HEAD) as journal:
        assert journal.rows == ROWS[:4]
        journal.extend(ROWS[4:])
    assert path.read_bytes() == WHOLE
    assert read_journal(path) == [HEAD, *ROWS]
    assert [json.loads(line)["row"] for line in WHOLE.splitlines()][1:] == ROWS
    with Journal(path, HEAD, anew=True) as journal:
        assert journal.rows == []
    with pytest.raises(ParplanError, match=r'of other work .* \(of: "a test", now 1\)'):
        Journal(path, {"of": 1})


def test_a_tail_that_is_cut_off_anywhere_is_written_again(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    for length in range(len(WHOLE)):
        path.write_bytes(WHOLE[:length])
        with Journal(path, HEAD) as journal:
            done = len(journal.rows)
            assert journal.rows == ROWS[:done]
            journal.extend(ROWS[done:])
        assert path.read_bytes() == WHOLE


@given(place=st.integers(0, len(WHOLE) - 1), byte=st.integers(0, 255))
def test_a_byte_that_changed_is_noticed(tmp_path_factory, place: int, byte: int) -> None:
    if WHOLE[place] == byte:
        return
    path = tmp_path_factory.mktemp("j") / "j.jsonl"
    path.write_bytes(WHOLE[:place] + bytes([byte]) + WHOLE[place + 1 :])
    if b"\n" in WHOLE[place + 1 : -1]:
        with pytest.raises(ParplanError, match=r"damaged|not a journal"):
            read_journal(path)
    else:
        # In the last line, and in the end of the one before, it cannot be told from a line that was
        # cut off: what it held is done again.
        ends_the_one_before = WHOLE[place : place + 1] == b"\n" and place < len(WHOLE) - 1
        assert read_journal(path) == [HEAD, *ROWS[: -2 if ends_the_one_before else -1]]


@pytest.mark.parametrize("lines", [[0, 2, 3], [1, 0, 2], [0, 1, 1, 2], [1, 2]])
def test_lines_that_are_missing_or_moved_are_noticed(lines: list[int], tmp_path: Path) -> None:
    whole = WHOLE.splitlines(keepends=True)
    path = tmp_path / "j.jsonl"
    path.write_bytes(b"".join(whole[n] for n in lines))
    with pytest.raises(ParplanError, match="is damaged or missing, and others follow"):
        Journal(path, HEAD)


def test_zeros_at_the_end_as_a_power_cut_leaves_them(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    path.write_bytes(WHOLE[:200] + bytes(4096))
    with Journal(path, HEAD) as journal:
        journal.extend(ROWS[len(journal.rows) :])
    assert path.read_bytes() == WHOLE


def test_a_full_disk_keeps_what_was_done(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with Journal(path, HEAD) as journal:
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(WHOLE) - 30, hard))
        try:
            journal.extend(ROWS[:-1])
            with pytest.raises(ParplanError, match="File too large; what was done before is kept"):
                journal.add(ROWS[-1])
            with pytest.raises(ParplanError, match="cannot be written: File too large"):
                write_whole(tmp_path / "x", bytes(len(WHOLE)))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert read_journal(path) == [HEAD, *ROWS[:-1]]
    assert [p.name for p in tmp_path.iterdir()] == ["j.jsonl"]
    with Journal(path, HEAD) as journal:
        journal.extend(ROWS[len(journal.rows) :])
    assert path.read_bytes() == WHOLE


HOLD = """
import sys, time
from pathlib import Path
from parplan.experiments.output.folder import UNFINISHED, OutputFolder
from parplan._journal import Journal
folder = OutputFolder(Path(sys.argv[1]), [])
journal = Journal(Path(sys.argv[1], "j.jsonl"), {"of": "a test"})
journal.add({"n": 0})
print("there", flush=True)
time.sleep(100)
"""


@pytest.mark.timeout(60)
def test_one_writer_at_a_time_until_it_is_killed(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "there\n"
        try:
            for attempt in (
                lambda: OutputFolder(tmp_path, []),
                lambda: new_folder(tmp_path, [], force=True),
                lambda: Journal(tmp_path / "j.jsonl", HEAD),
                lambda: Journal(tmp_path / "j.jsonl", HEAD, anew=True),
            ):
                with pytest.raises(ParplanError, match="another process of parplan writes to it"):
                    attempt()
            assert read_journal(tmp_path / "j.jsonl") == [HEAD, {"n": 0}]
        finally:
            os.kill(other.pid, signal.SIGKILL)
    own, again = OutputFolder(tmp_path, []), OutputFolder(tmp_path, [])
    with Journal(tmp_path / "j.jsonl", HEAD) as journal:
        assert journal.rows == [{"n": 0}]
    del own, again


def test_parts_of_files_go_with_the_next_run(tmp_path: Path) -> None:
    (tmp_path / ".manifest.json.abcd1234.parplan-part").write_text("{")
    new_folder(tmp_path, [], force=False).write_text("a.txt", "a")
    assert [path.name for path in tmp_path.iterdir() if path.name != UNFINISHED] == ["a.txt"]
