"""The tests nearest to what changed, within a limit of time: `make quick`.

Files of tests are ordered by how many imports lead from them to a changed file; those of the layers
come first. No test is begun after the limit. The last line says how many were left out, so that
nobody takes it for the whole suite.
"""

import argparse
import ast
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterable, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("parplan", "hardware", "sim", "planners", "backend", "experiments")
ALWAYS = ("tests/system/test_layers.py", "tests/system/test_sources.py")
FAR = 1_000
"""More than any chain of imports is long."""


def changed_files(base: str) -> list[str]:
    """Files that differ from `base`, and new ones; those of the last commit if there are none."""
    found = [*_git("diff", "--name-only", base), *_git("ls-files", "-o", "--exclude-standard")]
    return found or _git("diff", "--name-only", "HEAD~1", "HEAD")


def _git(*words: str) -> list[str]:
    done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def imports_of(path: Path, known: Mapping[str, str]) -> set[str]:
    """The files of the repository that a file imports. known: by dotted name."""
    names = set[str]()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{name.name}" for name in node.names)}
        elif isinstance(node, ast.Import):
            names |= {name.name for name in node.names}
    return {known[name] for name in names if name in known}


def import_graph(root: Path = ROOT) -> dict[str, set[str]]:
    """By file of the code and of the tests: the files that it imports."""
    paths = [p for folder in (*PACKAGES, "tests") for p in sorted((root / folder).rglob("*.py"))]
    files = {_dotted(path.relative_to(root)): path.relative_to(root).as_posix() for path in paths}
    return {file: imports_of(root / file, files) for file in files.values()}


def _dotted(path: Path) -> str:
    parts = [part for part in path.with_suffix("").parts if part != "__init__"]
    return ".".join(parts if parts[0] in ("parplan", "tests") else ["parplan", *parts])


def distances(graph: Mapping[str, Iterable[str]], changed: Iterable[str]) -> dict[str, int]:
    """How many imports lead from a file to a changed one; without an entry where none do.

    A changed file that is no module (a table, a page) counts as the modules beside it.
    """
    users: dict[str, set[str]] = {file: set() for file in graph}
    for file, imported in graph.items():
        for other in imported:
            users[other].add(file)
    starts: dict[str, int] = {}
    for file in changed:
        if file in graph:
            starts[file] = 0
        else:
            beside = [other for other in graph if Path(other).parent == Path(file).parent]
            starts |= dict.fromkeys(beside, 0)
    found, waiting = dict(starts), deque(starts)
    while waiting:
        file = waiting.popleft()
        for user in sorted(users[file]):
            if user not in found:
                found[user] = found[file] + 1
                waiting.append(user)
    return found


def ordered_tests(
    graph: Mapping[str, Iterable[str]], changed: Iterable[str], root: Path = ROOT
) -> list[str]:
    """Files of tests that a change can reach, the nearest first.

    Tests in the room of a changed file come before others that are as near; a page's tests are
    those of `tests/docs` that name it.
    """
    changed = list(changed)
    near = distances(graph, changed)
    rooms = {Path(file).parent.as_posix() for file in changed}
    pages = {Path(file).stem for file in changed if file.endswith((".md", ".ipynb"))}
    tests = [file for file in graph if Path(file).name.startswith("test_")]
    for test in tests:
        if test.startswith("tests/docs/"):
            text = (root / test).read_text(encoding="utf-8")
            if any(f"{page}.md" in text or f'"{page}"' in text for page in pages):
                near[test] = 0
    found = [test for test in tests if test in near and test not in ALWAYS]
    in_room = {test: Path(test).parent.as_posix().removeprefix("tests/") in rooms for test in found}
    return [*ALWAYS, *sorted(found, key=lambda test: (near[test], not in_room[test], test))]


class Deadline:
    """A plug-in of pytest that begins no test after so many seconds."""

    def __init__(self, seconds: float) -> None:
        self.end_s = time.monotonic() + seconds
        self.left = 0

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> bool | None:
        """True: nothing more is done for this test."""
        del item
        if time.monotonic() < self.end_s:
            return None
        self.left += 1
        return True


def main() -> int:
    """Run them; the exit status is that of pytest."""
    parser = argparse.ArgumentParser(description="Run the tests nearest to what changed.")
    parser.add_argument("--base", default="HEAD", help="changes since this commit (default HEAD)")
    parser.add_argument("--seconds", type=float, default=80.0, help="begin no test after that")
    args = parser.parse_args()
    tests = ordered_tests(import_graph(), changed_files(args.base))
    deadline = Deadline(args.seconds)
    status = pytest.main(["-q", "-x", *tests], plugins=[deadline])
    said = f"quick: {deadline.left} tests of {len(tests)} files were left out for lack of time"
    sys.stdout.write(f"{said}; make test runs all\n")
    return int(status)


if __name__ == "__main__":
    sys.exit(main())
