"""Tables in pages (docs/accuracy.md and others), which commands keep up to date."""

from pathlib import Path

from parplan._strict import read_text
from parplan.errors import ParplanError

COMMAND = "parplan validate"
STUDY = "parplan validate --fit-study"
WORST = "parplan validate --worst"
KINDS = "parplan validate --by-kind"
LEAVE_ONE_OUT = "parplan validate --leave-one-source-out"

END = "<!-- end -->"
PAGE = "docs/accuracy.md"


def begin(command: str, page: str = PAGE) -> str:
    """The line before the table that `command` writes into `page`."""
    return f"<!-- begin: {command} --write-docs {page} -->"


BEGIN = begin(COMMAND)


def written_page(path: Path, table: str, command: str = COMMAND, page: str = PAGE) -> str:
    """The text of the page at `path` with `table` in the place of the old one of `command`.

    Raises `ParplanError` for a page that cannot be read, or has no place for it.
    """
    text, line = read_text(path), begin(command, page)
    before, found, rest = text.partition(line)
    _, end, after = rest.partition(END)
    if not found or not end:
        raise ParplanError(f"{path}: no place for the table: expected {line!r}, then {END!r}")
    return f"{before}{line}\n```console\n$ {command}\n{table}\n```\n{END}{after}"


def shown_table(text: str, command: str = COMMAND, page: str = PAGE) -> str:
    """The table of `command` within the text of a page; raises `ParplanError` if there is none."""
    line = begin(command, page)
    _, found, rest = text.partition(f"{line}\n```console\n$ {command}\n")
    table, end, _ = rest.partition(f"\n```\n{END}")
    if not found or not end:
        raise ParplanError(f"no table between {line!r} and {END!r}")
    return table
