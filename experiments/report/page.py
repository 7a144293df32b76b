"""The frame of a report: style, the script that sorts tables, and small pieces of HTML."""

from collections.abc import Iterable
from html import escape
from importlib import resources
from typing import NamedTuple

MARK = '<meta name="generator" content="parplan">'
"""In the head of every page, by which a report is told from other files."""


class Section(NamedTuple):
    """A part of the page with a heading of its own."""

    title: str
    body: str
    """HTML."""


def page(title: str, subtitle: str, sections: Iterable[Section]) -> str:
    """The whole page."""
    sections = list(sections)
    folder = resources.files("parplan.experiments.report")
    style = (folder / "report.css").read_text(encoding="utf-8")
    script = (folder / "report.js").read_text(encoding="utf-8")
    links = "".join(
        f'<a href="#part{i}">{escape(section.title)}</a>' for i, section in enumerate(sections)
    )
    parts = "".join(
        f'<section id="part{i}"><h2>{escape(section.title)}</h2>\n{section.body}</section>\n'
        for i, section in enumerate(sections)
    )
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
{MARK}
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<style>
{style}</style>
</head>
<body>
<header><h1>{escape(title)}</h1><p>{escape(subtitle)}</p><nav>{links}</nav></header>
<main>
{parts}</main>
<script>
{script}</script>
</body>
</html>
"""


def facts(rows: Iterable[tuple[str, str]]) -> str:
    """Names and values, one below the other."""
    cells = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in rows)
    return f"<dl>{cells}</dl>\n"


def cards(rows: Iterable[tuple[str, str, str]]) -> str:
    """(name, value, what to know of it), beside each other."""
    cells = "".join(
        f'<div class="card"><span>{escape(name)}</span><b>{escape(value)}</b>'
        f"<small>{escape(more)}</small></div>"
        for name, value, more in rows
    )
    return f'<div class="cards">{cells}</div>\n'


def text_block(text: str) -> str:
    """Text as it is, in lines."""
    return f"<pre>{escape(text)}</pre>\n"


def paragraph(text: str) -> str:
    """A paragraph."""
    return f"<p>{escape(text)}</p>\n"


def folded(summary: str, body: str, *, is_open: bool = False) -> str:
    """A collapsible section."""
    mark = " open" if is_open else ""
    return f"<details{mark}><summary>{escape(summary)}</summary>{body}</details>\n"
