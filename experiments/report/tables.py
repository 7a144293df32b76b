"""CSV files as tables that sort."""

import csv
import io
import math
from collections.abc import Sequence
from html import escape
from typing import NamedTuple

from parplan.experiments.report.page import folded, text_block

MOST_ROWS = 2000
"""More make a page slow; the fastest of them are shown where there is a step time."""

OPEN_ROWS = 12
"""Longer tables are folded."""

LONG = 40
"""Letters from which on a cell is given more room."""

FASTEST = ("step_s", "predicted_s")


class Table(NamedTuple):
    """The cells of a CSV."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def read_table(text: str) -> Table | None:
    """The table of a CSV with a header; None for any other text, such as instruction lists."""
    try:
        rows = [row for row in csv.reader(io.StringIO(text), strict=True) if row]
    except csv.Error:
        return None
    if not rows or len(set(rows[0])) < len(rows[0]) or any(len(r) != len(rows[0]) for r in rows):
        return None
    if any(_number(cell) is not None or not cell.strip() for cell in rows[0]):
        return None
    return Table(tuple(rows[0]), tuple(tuple(row) for row in rows[1:]))


def csv_block(name: str, title: str, text: str) -> str:
    """A CSV as a table; instruction lists as text."""
    table = read_table(text)
    if table is None or _is_schedule(name, table):
        return folded(title, text_block(text))
    return table_block(name, title, table)


def _is_schedule(name: str, table: Table) -> bool:
    return name == "schedule.csv" or table.columns[0][:1].isdigit()


def table_block(name: str, title: str, table: Table) -> str:
    """The table, folded where it is long; columns that are the same in all rows are said once."""
    if not table.rows or not any(cell for row in table.rows for cell in row):
        return folded(f"{title} (none)", '<p class="note">no rows</p>')
    kept, said = _constant(table)
    rows, cut = _cut(table, kept)
    shown = f"{len(table.rows):,} row{'s' * (len(table.rows) != 1)}"
    notes = f'<p class="note">{escape(cut)}</p>' if cut else ""
    if said:
        notes += f'<p class="note">In all rows: {escape(said)}</p>'
    body = notes + _html([table.columns[i] for i in kept], rows)
    return folded(f"{title} ({shown}, {name})", body, is_open=len(table.rows) <= OPEN_ROWS)


def _constant(table: Table) -> tuple[list[int], str]:
    """The columns that differ between rows, and the others in words."""
    if len(table.rows) < 3:
        return list(range(len(table.columns))), ""
    kept, said = [], []
    for i, name in enumerate(table.columns):
        values = {row[i] for row in table.rows}
        if len(values) > 1:
            kept.append(i)
        elif (value := next(iter(values))) != "":
            said.append(f"{name} {value}")
    return kept, ", ".join(said)


def _cut(table: Table, kept: Sequence[int]) -> tuple[list[list[str]], str]:
    rows, cut = list(table.rows), ""
    if len(rows) > MOST_ROWS:
        cut = f"the first {MOST_ROWS:,} of {len(rows):,} rows; all are in the file"
        key = next((name for name in FASTEST if name in table.columns), None)
        if key is not None:
            place = table.columns.index(key)
            rows.sort(key=lambda row: _order(row[place]))
            cut = cut.replace("the first", "the fastest", 1)
        rows = rows[:MOST_ROWS]
    return [[row[i] for i in kept] for row in rows], cut


def _order(text: str) -> float:
    value = _number(text)
    return math.inf if value is None else value


def _html(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    numeric = [
        all(_number(row[i]) is not None for row in rows if row[i] != "")
        and any(row[i] != "" for row in rows)
        for i in range(len(columns))
    ]
    heads = "".join(
        f'<th scope="col"{_class(is_number)}><button type="button">{escape(name)}</button></th>'
        for name, is_number in zip(columns, numeric, strict=True)
    )
    body = "\n".join(f"<tr>{''.join(map(_cell, row, numeric))}</tr>" for row in rows)
    return (
        f'<div class="frame"><table class="sortable"><thead><tr>{heads}</tr></thead>\n'
        f"<tbody>\n{body}\n</tbody></table></div>"
    )


def _class(is_number: bool) -> str:
    return ' class="number"' if is_number else ""


def _cell(text: str, is_number: bool) -> str:
    """Numbers are rounded for the eye; the whole value sorts, and shows when pointed at."""
    if not is_number or text == "":
        kind = ' class="long"' if len(text) > LONG else _class(is_number)
        return f"<td{kind}>{escape(text)}</td>"
    shown = rounded(text)
    value = escape(text, quote=True)
    point = f' title="{value}"' if shown.replace(",", "") != text else ""
    return f'<td class="number" data-value="{value}"{point}>{escape(shown)}</td>'


def rounded(text: str) -> str:
    """A number with four digits that count; whole numbers with commas."""
    value = float(text)
    if value == int(value) and abs(value) < 1e15:
        return f"{int(value):,}"
    if abs(value) >= 1e6 or 0 < abs(value) < 1e-3:
        return f"{value:.3e}"
    return f"{value:.4g}" if abs(value) < 1e4 else f"{value:,.0f}"


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None
