"""The example notebook holds what its cells give when they are run."""

import json
import os
from pathlib import Path
from typing import Any

from tests.docs.notebook_cells import run_cell

NOTEBOOK = Path(__file__).parents[2] / "docs" / "example.ipynb"
"""`PARPLAN_WRITE_DOCS=1` writes the outputs into it."""


def without_pictures(outputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Pictures depend on the release of matplotlib; that there is one does not."""
    found = json.loads(json.dumps(outputs))
    for output in found:
        if "image/png" in output.get("data", {}):
            output["data"]["image/png"] = "a picture"
    return found


def test_its_outputs_are_what_its_cells_give() -> None:
    notebook = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    names: dict[str, Any] = {}
    count = 0
    for cell in notebook["cells"]:
        if cell["cell_type"] != "code":
            continue
        count += 1
        outputs = run_cell("".join(cell["source"]), names)
        if os.environ.get("PARPLAN_WRITE_DOCS"):
            cell |= {"outputs": outputs, "execution_count": count}
        assert cell["execution_count"] == count
        assert without_pictures(cell["outputs"]) == without_pictures(outputs)
    assert count > 6
    if os.environ.get("PARPLAN_WRITE_DOCS"):
        text = json.dumps(notebook, indent=1, ensure_ascii=False)
        NOTEBOOK.write_text(f"{text}\n", encoding="utf-8")


def test_it_has_pictures_and_tables() -> None:
    notebook = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    kinds = [
        kind
        for cell in notebook["cells"]
        for o in cell.get("outputs", [])
        for kind in o.get("data", {})
    ]
    assert kinds.count("image/png") == 3
    assert "text/html" in kinds
