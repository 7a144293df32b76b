"""The parts of an experiment: question, source of the published numbers, table and figure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from parplan.experiments.cases.accuracy import Errors, errors_of
from parplan.experiments.output.tables import columns

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Value = str | int | float | bool | None
Row = Mapping[str, Any]
"""Of a table: a `Value` for each column."""

ERROR = "error"
"""Columns whose name ends with this are predicted over published, minus one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """The result of an experiment."""

    rows: Sequence[Row]
    """The table; all rows have the same columns."""
    figure: Figure
    findings: tuple[str, ...] = ()
    """What else there is to say, one line each."""

    @property
    def errors(self) -> dict[str, Errors]:
        """The errors of each column of them, by its name."""
        found = {}
        for name in self.rows[0] if self.rows else ():
            if name.endswith(ERROR):
                errors = errors_of(_number(row[name]) for row in self.rows)
                if errors is not None:
                    found[name] = errors
        return found

    def summary(self) -> list[str]:
        """Describe the errors of the predictions, then the findings."""
        return [*(_error_line(*item) for item in self.errors.items()), *self.findings]


@dataclass(frozen=True, slots=True, kw_only=True)
class Experiment:
    """A question about a publication, and how parplan answers it."""

    question: str
    source: str
    """The publication."""
    setup: str
    """What is trained on what, and what had to be assumed."""
    published: str
    """Where the published numbers come from."""
    run: Callable[[bool], Result]
    """Predicts and compares; True: a reduced set of cases, in a few seconds."""
    seconds: float
    """About how long it runs on a core of 2023."""


def number(row: Row, name: str) -> float:
    """A number of a row, for a figure; not a number where there is none."""
    value = _number(row[name])
    return float("nan") if value is None else value


def _number(value: Value) -> float | None:
    return float(value) if isinstance(value, (int, float)) else None


def _error_line(name: str, errors: Errors) -> str:
    runs = "number" if errors.count == 1 else "numbers"
    return (
        f"{name}: median {errors.median:.1%}, mean {errors.mean:.1%}, "
        f"90th percentile {errors.p90:.1%}, bias {errors.bias:+.1%} ({errors.count} {runs})"
    )


def relative(predicted: float | None, published: float | None) -> float | None:
    """Predicted over published, minus one; None where one of them is not there."""
    if predicted is None or not published:
        return None
    return predicted / published - 1


def table(rows: Sequence[Row]) -> str:
    """The rows as text: numbers with four digits, errors as per cent."""
    if not rows:
        return ""
    names = list(rows[0])
    body = [[_cell(name, row[name]) for name in names] for row in rows]
    return columns([names, *body])


def _cell(name: str, value: Value) -> str:
    if value is None:
        return "-"
    if name.endswith(ERROR) and isinstance(value, float):
        return f"{value:+.1%}"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def csv_rows(rows: Iterable[Row]) -> list[dict[str, str]]:
    """The rows with numbers at full precision; empty where there is none."""
    return [
        {k: "" if v is None else repr(v) if isinstance(v, float) else str(v) for k, v in r.items()}
        for r in rows
    ]
