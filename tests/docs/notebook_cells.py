"""Runs the cells of a notebook in one process, as Jupyter would show them."""

import ast
import base64
import contextlib
import io
from typing import Any

import pandas as pd
from matplotlib.figure import Figure


def run_cell(source: str, names: dict[str, Any]) -> list[dict[str, Any]]:
    """The outputs of one cell: what it prints, and the value of its last line."""
    tree = ast.parse(source)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    printed, value = io.StringIO(), None
    with contextlib.redirect_stdout(printed):
        exec(compile(tree, "cell", "exec"), names)
        if isinstance(last, ast.Expr):
            value = eval(compile(ast.Expression(last.value), "cell", "eval"), names)
    outputs: list[dict[str, Any]] = []
    if printed.getvalue():
        text = printed.getvalue().splitlines(keepends=True)
        outputs.append({"name": "stdout", "output_type": "stream", "text": text})
    if value is not None:
        outputs.append(_displayed(value))
    return outputs


def _displayed(value: Any) -> dict[str, Any]:
    data: dict[str, Any] = {"text/plain": repr(value).splitlines(keepends=True)}
    if isinstance(value, Figure):
        out = io.BytesIO()
        value.savefig(out, format="png", dpi=70)
        size = "x".join(f"{inches * 70:.0f}" for inches in value.get_size_inches())
        data = {"text/plain": [f"<Figure {size}>"]}
        data["image/png"] = base64.b64encode(out.getvalue()).decode()
    elif isinstance(value, pd.DataFrame):
        data["text/html"] = value.to_html(index=False).splitlines(keepends=True)
        data["text/plain"] = value.to_string(index=False).splitlines(keepends=True)
    return {"data": data, "metadata": {}, "output_type": "display_data"}
