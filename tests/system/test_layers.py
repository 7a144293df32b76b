"""The layers parplan, hardware, sim, planners, backend, experiments; torch in backend alone."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LAYERS = ("parplan", "hardware", "sim", "planners", "backend", "experiments")
FILES = [path for layer in LAYERS for path in sorted((ROOT / layer).rglob("*.py"))]


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""


def layer_of(path: Path) -> str:
    return path.relative_to(ROOT).parts[0]


def test_there_is_something_to_check() -> None:
    assert {layer_of(path) for path in FILES} == set(LAYERS)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_from_right_to_left(path: Path) -> None:
    own = LAYERS.index(layer_of(path))
    for name in imports(path):
        parts = name.split(".")
        if parts[0] == "parplan":
            layer = parts[1] if parts[1:2] and parts[1] in LAYERS else "parplan"
            assert LAYERS.index(layer) <= own, f"{name} is to the right of {LAYERS[own]}"
        if parts[0] == "torch":
            assert layer_of(path) == "backend", "torch is imported under backend/ alone"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_file_swells(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 420
