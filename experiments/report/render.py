"""The page of a folder: the decision, the log, pictures, tables, evidence, how it was made."""

import base64
import json
import os
from collections.abc import Iterator
from html import escape
from pathlib import Path

from parplan._files import (
    check_replaceable,
    is_file,
    is_folder,
    read_regular,
    without_links,
    write_whole,
)
from parplan._strict import read_json, read_text
from parplan.errors import ParplanError
from parplan.experiments.report.decision import decision, evidence
from parplan.experiments.report.page import MARK, Section, facts, folded, page, text_block
from parplan.experiments.report.tables import csv_block

REPORT = "report.html"
LOG = "log.txt"
EXPLORER = "explore.html"

FIRST = (
    *("summary", "figure", "table", "gantt", "landscape", "time_split", "why", "better", "scale"),
    *("measured", "memory", "critical_path", "sensitivity", "trials"),
)
"""Names without suffix in the order of the page; all others follow by name."""

TITLES = {
    "gantt": "The step, rank by rank",
    "landscape": "Landscape",
    "time_split": "Where the time goes",
    "why": "What other plans would cost",
    "better": "Faster plans near this one",
    "trials": "Every candidate",
    "memory": "Memory over the step",
    "critical_path": "The critical path",
    "sensitivity": "What a faster resource would gain",
    "schedule": "Instruction lists",
    "not_said": "What the target cannot express",
    "notes": "What was understood otherwise",
    "measured": "Measured beside predicted",
}

PICTURES = {".png": "image/png", ".svg": "image/svg+xml"}
TEXTS = (".txt", ".sh", ".yaml", ".yml", ".toml", ".py", ".md")
MAX_BYTES = 30 * 2**20
"""Larger files are named, not shown."""
MOST_FILES = 1000
"""A folder of more is none that parplan wrote."""


def write_report(folder: Path, path: Path) -> None:
    """Write the page to `path`.

    Raises `ParplanError` as `render` does, and where another file is in the way.
    """
    check_own_page(path)
    write_whole(path, render(folder).encode())


def _candidates(folder: Path) -> str:
    """The page of the candidates of a search within the report; empty for other folders."""
    # Imported here: other folders need no charts.
    from parplan.experiments.explorer.job import from_folder
    from parplan.experiments.explorer.page import page as explorer
    from parplan.experiments.explorer.page import script_safe

    try:
        job = from_folder(folder)
        text = explorer(job if job.is_whole else job.improved(), served=False)
    except ParplanError:
        return ""
    return (
        '<p class="note" id="explorer-note">The candidates need JavaScript.</p>\n'
        f'<script type="application/json" id="explorer-page">{script_safe(text)}</script>\n'
        '<iframe id="explorer" title="Candidates of the search"></iframe>\n'
    )


def render(folder: Path) -> str:
    """The page; raises `ParplanError` for what is not a folder, or has nothing to show."""
    files = sorted(_shown(folder))
    if not files:
        raise ParplanError(f"{folder}: holds nothing that a report shows")
    manifest = _manifest(folder)
    sections = [
        Section("Decision", decision(folder)),
        Section("Log", _log(folder)),
        Section("Explore the candidates", _candidates(folder)),
        *_contents(folder, files),
        Section("How near such predictions were", evidence(folder)),
        Section("How it was made", _made(manifest, folder, files)),
    ]
    arguments = manifest.get("arguments")
    words = arguments if isinstance(arguments, list) else []
    title = " ".join(["parplan", *map(str, words)]) if words else without_links(folder).name
    subtitle = " · ".join(str(part) for part in (manifest.get("date"), folder) if part)
    return page(title, subtitle, [section for section in sections if section.body])


def _shown(folder: Path) -> list[Path]:
    """The files that are not hidden; raises `ParplanError` where there are too many for a page."""

    def refuse(error: OSError) -> None:
        raise ParplanError(f"{error.filename}: cannot be read: {error.strerror}")

    found: list[Path] = []
    try:
        if not is_folder(folder):
            raise ParplanError(f"{folder}: is not a folder")
        for place, folders, names in os.walk(folder, onerror=refuse):
            folders[:] = [name for name in folders if not name.startswith(".")]
            paths = [Path(place, name) for name in names if not name.startswith(".")]
            found += [
                p for p in paths if _is_within(p, folder) and p.name not in (REPORT, LOG, EXPLORER)
            ]
            if len(found) > MOST_FILES:
                raise ParplanError(f"{folder}: holds over {MOST_FILES} files; not one of results")
    except OSError as error:
        raise ParplanError(f"{folder}: cannot be read: {error.strerror}") from None
    return found


def _is_within(path: Path, folder: Path) -> bool:
    """Whether a file lies in the folder itself, and is not elsewhere behind a link."""
    return is_file(path) and without_links(path).is_relative_to(without_links(folder))


def check_own_page(path: Path) -> None:
    """Raise `ParplanError` where a file is at `path` that is no report of parplan."""
    if not os.path.lexists(path):
        return
    check_replaceable(path)

    def check_mark(begin: bytes) -> None:
        if MARK.encode() not in begin[:2000]:
            raise ParplanError(f"{path}: is there already, and is no report of parplan")

    if not read_regular(path, None, check_mark):
        check_mark(b"")


def _manifest(folder: Path) -> dict[str, object]:
    path = folder / "manifest.json"
    table = read_json(path) if _is_within(path, folder) else {}
    return table if isinstance(table, dict) else {}


def _log(folder: Path) -> str:
    path = folder / LOG
    return text_block(read_text(path)) if _is_within(path, folder) else ""


def _contents(folder: Path, files: list[Path]) -> Iterator[Section]:
    """The folder's own texts, pictures and tables; then a section for each folder in it."""
    inner = sorted({path.parent for path in files}, key=lambda p: (p != folder, str(p)))
    for place in inner:
        own = sorted((p for p in files if p.parent == place), key=_order)
        kinds = {
            "Texts": "".join(_text(p) for p in own if p.suffix in TEXTS),
            "Pictures": "".join(_picture(p) for p in own if p.suffix in PICTURES),
            "Tables": "".join(_csv(p) for p in own if p.suffix == ".csv"),
        }
        if place == folder:
            yield from (Section(title, body) for title, body in kinds.items())
        else:
            yield Section(str(place.relative_to(folder)), decision(place) + "".join(kinds.values()))


def _order(path: Path) -> tuple[int, str]:
    place = FIRST.index(path.stem) if path.stem in FIRST else len(FIRST)
    return place, path.name


def _title(path: Path) -> str:
    words = path.stem.replace("_", " ").replace("-", " ")
    return TITLES.get(path.stem, words[:1].upper() + words[1:])


def _picture(path: Path) -> str:
    title = escape(_title(path), quote=True)
    if path.stat().st_size > MAX_BYTES:
        return f'<p class="note">{title}: {escape(path.name)} is too large to be shown</p>'
    data = base64.b64encode(read_regular(path)).decode()
    return (
        f"<figure><figcaption>{title}</figcaption>"
        f'<img alt="{title}" src="data:{PICTURES[path.suffix]};base64,{data}"></figure>\n'
    )


def _text(path: Path) -> str:
    if path.stat().st_size > MAX_BYTES:
        return f'<p class="note">{escape(path.name)} is too large to be shown</p>'
    return folded(path.name, text_block(read_text(path)), is_open=path.stem == "summary")


def _csv(path: Path) -> str:
    if path.stat().st_size > MAX_BYTES:
        return f'<p class="note">{escape(path.name)} is too large to be shown</p>'
    return csv_block(path.name, _title(path), read_text(path))


def _made(manifest: dict[str, object], folder: Path, files: list[Path]) -> str:
    rows = [
        (name, str(manifest[name]))
        for name in ("date", "commit", "python", "platform", "seed", "seconds")
        if manifest.get(name) is not None
    ]
    packages = manifest.get("packages")
    if isinstance(packages, dict):
        rows.append(("packages", ", ".join(f"{n} {v}" for n, v in packages.items() if v)))
    names = [f"{path.relative_to(folder)} ({_size(path)})" for path in files]
    rows.append(("files", ", ".join(names)))
    rows += [
        (path.name, "opens in Perfetto (ui.perfetto.dev)")
        for path in files
        if path.name in ("timeline.json", "timeline.json.gz")
    ]
    whole = json.dumps(manifest, indent=2, ensure_ascii=False)
    return facts(rows) + (folded("manifest.json", text_block(whole)) if manifest else "")


def _size(path: Path) -> str:
    size = path.stat().st_size
    return f"{size / 1e6:.1f} MB" if size >= 1e5 else f"{size / 1e3:.1f} kB"
