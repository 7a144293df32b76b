"""The page itself: a template, style and script, with the charting library that is shipped."""

import json
from importlib import resources
from typing import Any

import jinja2

from parplan.experiments.explorer.job import ExploredJob

DETAILED = 12
"""Candidates whose details a file has."""

SCRIPTS = ("charts.js", "parallel.js", "points.js", "explorer.js")
STYLE = "explorer.css"


def page(job: ExploredJob, *, served: bool) -> str:
    """The whole page. `served`: the library and details come from the server that shows it.

    A page that is a file has the library and the details of the fastest candidates in it.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("parplan.experiments.explorer", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    data: dict[str, Any] = {"served": served, "table": job.table(), "details": {}}
    if not served:
        for place in fastest(data["table"]):
            data["details"][str(place)] = job.of_plan(data["table"]["plans"][place])
    folder = resources.files("parplan.experiments.explorer")
    texts = {n: (folder / n).read_text(encoding="utf-8") for n in (STYLE, *SCRIPTS)}
    return environment.get_template("explorer.html.j2").render(
        title=data["table"]["title"],
        data=script_safe(data),
        style=texts[STYLE],
        scripts=[texts[name] for name in SCRIPTS],
        library=None if served else library(),
    )


def fastest(table: dict[str, Any]) -> list[int]:
    """The places of the candidates whose details a file has."""
    steps = table["step_s"]
    timed = [place for place, step_s in enumerate(steps) if step_s is not None]
    return sorted(timed, key=lambda place: float(steps[place]))[:DETAILED]


def library() -> str:
    """plotly.js as its Python package ships it."""
    from plotly.offline import get_plotlyjs

    return str(get_plotlyjs())


def script_safe(value: Any) -> str:
    """JSON that ends no script element, whatever names it holds."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    for letter, escaped in (("<", "\\u003c"), (">", "\\u003e"), ("&", "\\u0026")):
        text = text.replace(letter, escaped)
    return text
