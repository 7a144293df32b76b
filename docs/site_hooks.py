"""Hooks of the documentation site (`mkdocs.yml`).

The home page is the README; an API page is generated for each folder of the code. Links to source
files become links to the API page that describes them, since the pages lie in `docs/` and the files
beside it.
"""

import ast
import json
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
PACKAGES = ("parplan", "hardware", "sim", "planners", "backend", "experiments")
ROOT_PAGES = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md",
              "CHANGELOG.md": "changelog.md"}  # fmt: skip
"""Pages that lie in the repository's root, by their place on the site."""

NOTEBOOK = "notebook.md"
LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s#]+)(#[^)\s]*)?\)")


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that are generated."""
    for source, page in ROOT_PAGES.items():
        files.append(File.generated(config, page, content=_moved(source)))
    files.append(File.generated(config, NOTEBOOK, content=_notebook()))
    rooms = {folder: _modules(folder) for folder in _rooms()}
    for folder, modules in rooms.items():
        files.append(File.generated(config, _page_of(folder), content=_api_page(folder, modules)))
    files.append(File.generated(config, "api/index.md", content=_api_index(rooms)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Links to files of the code lead to their API pages, others of the repository are names."""
    del config, files
    place = Path("docs", page.file.src_uri).parent
    return LINK.sub(lambda found: _link(found, place), markdown)


def _moved(source: str) -> str:
    """A page of the repository's root, with its links as they are seen from `docs/`."""
    text = (ROOT / source).read_text(encoding="utf-8")

    def moved(found: re.Match[str]) -> str:
        mark, label, target, anchor = found.groups()
        if ":" in target:
            return found[0]
        inside = target.removeprefix("docs/") if target.startswith("docs/") else f"../{target}"
        return f"{mark}[{label}]({inside}{anchor or ''})"

    return LINK.sub(moved, text)


def _link(found: re.Match[str], place: Path) -> str:
    _, label, target, anchor = found.groups()
    if ":" in target:
        return found[0]
    path = (ROOT / place / target).resolve()
    if path.is_relative_to(ROOT / "docs") and path.suffix != ".ipynb":
        return found[0]
    up = "../" * (len(place.parts) - 1)
    if path == ROOT / "docs" / "example.ipynb":
        return f"[{label}]({up}{NOTEBOOK})"
    inside = path.relative_to(ROOT)
    if str(inside) in ROOT_PAGES:
        return f"[{label}]({up}{ROOT_PAGES[str(inside)]}{anchor or ''})"
    if inside.parts[0] not in PACKAGES or (path.suffix != ".py" and not path.is_dir()):
        return label
    folder = path if path.is_dir() else path.parent
    module = "" if path.is_dir() else f"#{_name(path)}"
    return f"[{label}]({up}{_page_of(folder)}{module})"


def _rooms() -> list[Path]:
    """Every folder of the code that has modules, in the order of the layers."""
    return [
        folder
        for package in PACKAGES
        for folder in sorted({p.parent for p in (ROOT / package).rglob("*.py")})
        if _modules(folder)
    ]


def _modules(folder: Path) -> list[Path]:
    return [folder / "__init__.py"] + [
        path for path in sorted(folder.glob("*.py")) if not path.name.startswith("_")
    ]


def _name(path: Path) -> str:
    """The dotted name of a module or folder."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    parts = tuple(part for part in parts if part != "__init__")
    return ".".join(parts if parts[0] == "parplan" else ("parplan", *parts))


def _page_of(folder: Path) -> str:
    return f"api/{_name(folder)}.md"


def _api_page(folder: Path, modules: list[Path]) -> str:
    """The public names of a folder's modules, from their docstrings; found after the pages."""
    blocks = [f"::: {_name(module)}\n" for module in modules]
    found_later = "---\nsearch: { boost: 0.1 }\n---\n"
    return "\n".join([f"{found_later}# {_name(folder)}\n", *blocks])


def _api_index(rooms: dict[Path, list[Path]]) -> str:
    lines = [
        "# API reference\n",
        "`import parplan` has the stable names ([parplan](parplan.md)). Everything else is",
        "internal and may move between releases; it is described here for those who read or extend",
        "the code. A package imports those above it alone.\n",
    ]
    for folder in rooms:
        depth = len(folder.relative_to(ROOT).parts) - 1
        link = f"[{_name(folder)}]({_name(folder)}.md)"
        lines.append(f"{'    ' * depth}- {link}: {_summary(folder / '__init__.py')}")
    return "\n".join(lines) + "\n"


def _summary(path: Path) -> str:
    """The first line of a module's docstring."""
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    return (text or "").partition("\n\n")[0].replace("\n", " ")


def _notebook() -> str:
    """The notebook as a page: its cells, and the text that they print."""
    cells = json.loads((ROOT / "docs" / "example.ipynb").read_text(encoding="utf-8"))["cells"]
    parts = []
    for cell in cells:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(source)
            continue
        parts.append(f"```python\n{source}\n```")
        for output in cell.get("outputs", ()):
            data = output.get("data", {"text/plain": output.get("text", [])})
            if "image/png" in data:
                image = "".join(data["image/png"]).replace("\n", "")
                parts.append(
                    f'<img alt="The figure of this cell" src="data:image/png;base64,{image}">'
                )
            elif "text/html" in data:
                parts.append("".join(data["text/html"]))
            else:
                parts.append(f"```text\n{''.join(data['text/plain']).rstrip()}\n```")
    return "\n\n".join(parts) + "\n"
