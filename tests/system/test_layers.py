"""Layers, folders and imports of the packages.

A file imports from its own layer and from those below (parplan, hardware, sim, planners, backend,
experiments); torch is imported in backend alone. Imports form no cycle, neither between files nor
between folders. Every import statement counts: those inside of functions and those for type
checkers as well. An `__init__.py` is no part of its folder here: it offers names of the folder's
files to others (its door), and is a place of its own. `parplan/__init__.py`, the public interface,
is above all layers: it may name everything, and imports nothing before it is asked for.
"""

import ast
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PUBLIC = "public"
LAYERS = ("parplan", "hardware", "sim", "planners", "backend", "experiments", PUBLIC)
FILES = [path for layer in LAYERS[:-1] for path in sorted((ROOT / layer).rglob("*.py"))]
FOLDERS = sorted({path.parent for path in FILES})

MOST_LINES = 420
MOST_FILES = 13
"""In a folder, `__init__.py` not counted."""


def imports(path: Path) -> Iterator[str]:
    """The modules that a file imports; `from a import b` gives `a.b` where that is a module."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                yield full if full in MODULES else node.module or ""


def layer_of(path: Path) -> str:
    parts = path.relative_to(ROOT).parts
    return PUBLIC if parts == ("parplan", "__init__.py") else parts[0]


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    parts = parts if parts[0] == "parplan" else ("parplan", *parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def folder_of(path: Path) -> str:
    """Where a file belongs between folders: its folder, or itself for an `__init__.py`."""
    place = path if path.name == "__init__.py" else path.parent
    return str(place.relative_to(ROOT))


MODULES = {module_of(path): path for path in FILES}


def first_cycle(edges: Mapping[str, Iterable[str]]) -> list[str]:
    """The nodes of a cycle, the first one again at the end; empty if there is none."""
    try:
        TopologicalSorter(edges).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def test_there_is_something_to_check() -> None:
    assert {layer_of(path) for path in FILES} == set(LAYERS)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_from_right_to_left(path: Path) -> None:
    own = LAYERS.index(layer_of(path))
    for name in imports(path):
        parts = name.split(".")
        if name == "parplan":
            assert own == len(LAYERS) - 1, "the public interface is for users alone"
        elif parts[0] == "parplan":
            layer = parts[1] if parts[1:2] and parts[1] in LAYERS else "parplan"
            assert LAYERS.index(layer) <= own, f"{name} is to the right of {LAYERS[own]}"
        if parts[0] == "torch":
            assert layer_of(path) == "backend", "torch is imported under backend/ alone"


def test_the_public_interface_imports_nothing_of_parplan_at_once() -> None:
    tree = ast.parse((ROOT / "parplan" / "__init__.py").read_text())
    at_once = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    assert [ast.unparse(node) for node in at_once] == [
        "import importlib",
        "from typing import TYPE_CHECKING, Any",
    ]


def test_a_cycle_would_be_found() -> None:
    assert first_cycle({"a": ["b"], "b": ["c"], "c": ["a"], "d": []}) != []
    assert first_cycle({"a": ["b", "c"], "b": ["c"]}) == []


def test_imports_between_files_form_no_cycle() -> None:
    edges = {
        module: {name for name in imports(path) if name in MODULES}
        for module, path in MODULES.items()
    }
    assert sum(map(len, edges.values())) > len(FILES), "imports are found"
    assert first_cycle(edges) == []


def test_imports_between_folders_form_no_cycle() -> None:
    edges: dict[str, set[str]] = {}
    for path in FILES:
        reached = {folder_of(MODULES[name]) for name in imports(path) if name in MODULES}
        edges.setdefault(folder_of(path), set()).update(reached - {folder_of(path)})
    assert len(edges) > len(FOLDERS), "folders and their doors"
    assert first_cycle(edges) == []


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: str(path.relative_to(ROOT)))
def test_folders_are_small_and_say_what_lives_there(folder: Path) -> None:
    files = [path for path in folder.glob("*.py") if path.name != "__init__.py"]
    assert len(files) <= MOST_FILES
    door = folder / "__init__.py"
    assert door.is_file()
    assert ast.get_docstring(ast.parse(door.read_text())), f"{door} has no docstring"


def test_every_folder_is_packaged() -> None:
    table = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packages = table["tool"]["setuptools"]["packages"]
    assert sorted(packages) == sorted(module_of(folder / "__init__.py") for folder in FOLDERS)


def test_every_public_class_name_has_one_owner() -> None:
    owners: dict[str, list[str]] = {}
    for module, path in MODULES.items():
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                owners.setdefault(node.name, []).append(module)
    assert len(owners) > 100, "classes are found"
    assert {name: where for name, where in owners.items() if len(where) > 1} == {}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_file_swells(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= MOST_LINES
