"""The table in the page about accuracy (docs/accuracy.md), which a command keeps up to date."""

from pathlib import Path

from parplan.hardware.errors import ParplanError
from parplan.hardware.strict import read_text

BEGIN = "<!-- begin: parplan validate --write-docs docs/accuracy.md -->"
END = "<!-- end -->"


def written_page(path: Path, table: str) -> str:
    """The text of the page at `path` with `table` in the place of the old one.

    Raises `ParplanError` for a page that cannot be read, or has no place for it.
    """
    text = read_text(path)
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ParplanError(f"{path}: no place for the table: expected {BEGIN!r}, then {END!r}")
    return f"{before}{BEGIN}\n```console\n$ parplan validate\n{table}\n```\n{END}{after}"


def shown_table(text: str) -> str:
    """The table within the text of a page; raises `ParplanError` if there is none."""
    _, begin, rest = text.partition(f"{BEGIN}\n```console\n$ parplan validate\n")
    table, end, _ = rest.partition(f"\n```\n{END}")
    if not begin or not end:
        raise ParplanError(f"no table between {BEGIN!r} and {END!r}")
    return table
