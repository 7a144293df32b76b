"""Journals under any order of what can happen to them, beside a list that says what they hold."""

import contextlib
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from parplan._journal import Journal, journal_bytes, read_journal
from parplan.errors import ParplanError
from parplan.experiments.output.journal import Row, RowJournal

HEAD = {"of": "a test", "numbers": [1, 2.5, None]}
ROWS = st.dictionaries(
    st.sampled_from(["n", "text", "ä", ""]),
    st.one_of(
        st.none(), st.booleans(), st.integers(-(2**53), 2**53), st.text(max_size=5),
        st.floats(allow_nan=False, allow_infinity=False), st.lists(st.integers(0, 9), max_size=3),
    ),
    max_size=3,
)  # fmt: skip


class JournalMachine(RuleBasedStateMachine):
    """A journal that is added to, closed, killed, cut off, damaged, and opened again."""

    def __init__(self) -> None:
        super().__init__()
        self.stack = contextlib.ExitStack()
        folder = self.stack.enter_context(tempfile.TemporaryDirectory())
        self.path = Path(folder) / "j.jsonl"
        self.rows: list[dict[str, Any]] = []
        self.journal: Journal | None = None

    @initialize()
    def begin(self) -> None:
        self.journal = Journal(self.path, HEAD)

    @precondition(lambda self: self.journal is None)
    @rule()
    def open(self) -> None:
        self.journal = Journal(self.path, HEAD)
        assert self.journal.rows == self.rows

    @precondition(lambda self: self.journal is None)
    @rule()
    def open_anew(self) -> None:
        self.journal, self.rows = Journal(self.path, HEAD, anew=True), []
        assert self.journal.rows == []

    @precondition(lambda self: self.journal is not None)
    @rule(row=ROWS)
    def add(self, row: dict[str, Any]) -> None:
        assert self.journal is not None
        assert self.journal.add(row) == row
        self.rows.append(row)

    @precondition(lambda self: self.journal is not None)
    @rule(rows=st.lists(ROWS, max_size=3))
    def extend(self, rows: list[dict[str, Any]]) -> None:
        assert self.journal is not None
        self.journal.extend(rows)
        self.rows += rows

    @precondition(lambda self: self.journal is not None)
    @rule()
    def close(self) -> None:
        assert self.journal is not None
        self.journal.close()
        self.journal.close()  # Twice does no harm.
        self.journal = None

    @precondition(lambda self: self.journal is not None)
    @rule()
    def killed(self) -> None:
        """As the end of a process closes a file: nothing is written any more."""
        assert self.journal is not None
        self.journal._closing()
        self.journal = None

    @precondition(lambda self: self.journal is None)
    @rule(data=st.data())
    def cut_off(self, data: st.DataObject) -> None:
        content = self.path.read_bytes()
        end = data.draw(st.integers(0, len(content)))
        self.path.write_bytes(content[:end] + data.draw(st.sampled_from([b"", bytes(40)])))
        whole = content[:end].count(b"\n")
        self.rows = self.rows[: max(0, whole - 1)]

    @precondition(lambda self: self.journal is None and len(self.rows) > 1)
    @rule(data=st.data())
    def damaged_in_the_middle(self, data: st.DataObject) -> None:
        content = self.path.read_bytes()
        last = content.rindex(b"\n", 0, -1)
        place = data.draw(st.integers(0, content.rindex(b"\n", 0, last) - 1))
        wrong = bytes([content[place] ^ data.draw(st.sampled_from([1, 2, 4, 128]))])
        self.path.write_bytes(content[:place] + wrong + content[place + 1 :])
        for attempt in (lambda: Journal(self.path, HEAD), lambda: read_journal(self.path)):
            with pytest.raises(ParplanError, match=r"line \d+ is damaged|not a journal"):
                attempt()
        self.path.write_bytes(content)

    @precondition(lambda self: self.journal is None and self.path.stat().st_size > 0)
    @rule()
    def opened_for_other_work(self) -> None:
        if not self.path.read_bytes().count(b"\n"):
            return
        before = self.path.read_bytes()
        whole = before[: before.rindex(b"\n") + 1]
        with pytest.raises(ParplanError, match="of other work"):
            Journal(self.path, {"of": "something else"})
        assert self.path.read_bytes().startswith(whole)

    @precondition(lambda self: self.journal is not None)
    @rule(anew=st.booleans())
    def opened_twice(self, anew: bool) -> None:
        with pytest.raises(ParplanError, match="another process of parplan writes to it"):
            Journal(self.path, HEAD, anew=anew)

    @invariant()
    def it_holds_what_was_added(self) -> None:
        if self.journal is not None:
            assert read_journal(self.path) == [HEAD, *self.rows]
            assert self.path.read_bytes() == journal_bytes([HEAD, *self.rows])
            assert self.journal.rows is not None

    def teardown(self) -> None:
        if self.journal is not None:
            self.journal.close()
        self.stack.close()


def as_it_is(key: Row, row: Row) -> Row:
    return row


KEYS = st.fixed_dictionaries({"n": st.integers(0, 5)})


class RowJournalMachine(RuleBasedStateMachine):
    """Rows by keys, in any order, over several runs, of which some end with all in order."""

    def __init__(self) -> None:
        super().__init__()
        self.stack = contextlib.ExitStack()
        folder = self.stack.enter_context(tempfile.TemporaryDirectory())
        self.path = Path(folder) / "rows.jsonl"
        self.rows: dict[int, dict[str, Any]] = {}
        self.journal = RowJournal(self.path, HEAD, as_it_is)

    @rule(key=KEYS, row=ROWS)
    def add(self, key: dict[str, int], row: dict[str, Any]) -> None:
        if self.journal.find(key) is None:
            assert self.journal.add(key, row) == row
            self.rows[key["n"]] = row

    @rule()
    def again(self) -> None:
        self.journal.__exit__(None, None, None)
        self.journal = RowJournal(self.path, HEAD, as_it_is)

    @rule(data=st.data())
    def ends_in_order(self, data: st.DataObject) -> None:
        order = data.draw(st.permutations(sorted(self.rows)))
        self.journal.put_in_order([{"n": n} for n in order])
        rows = [{"key": {"n": n}, "row": self.rows[n]} for n in order]
        assert self.path.read_bytes() == journal_bytes([HEAD, *rows])
        self.journal = RowJournal(self.path, HEAD, as_it_is)

    @invariant()
    def each_key_has_its_row(self) -> None:
        for n in range(6):
            assert self.journal.find({"n": n}) == self.rows.get(n)
        kept = read_journal(self.path)[1:]
        assert {own["key"]["n"]: own["row"] for own in kept} == self.rows
        assert len(kept) == len(self.rows)

    def teardown(self) -> None:
        self.journal.__exit__(None, None, None)
        self.stack.close()


FEW = settings(max_examples=8, stateful_step_count=12, deadline=None, derandomize=True)
MANY = settings(max_examples=1000, stateful_step_count=40, deadline=None)

TestJournal = JournalMachine.TestCase
TestJournal.settings = FEW
TestRowJournal = RowJournalMachine.TestCase
TestRowJournal.settings = FEW


class TestJournalLong(JournalMachine.TestCase):  # type: ignore[misc, name-defined]
    settings = MANY
    pytestmark = pytest.mark.long


class TestRowJournalLong(RowJournalMachine.TestCase):  # type: ignore[misc, name-defined]
    settings = MANY
    pytestmark = pytest.mark.long
