"""Changes of sources, and whether tests notice them: those that reach the changed line go first."""

import ast
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from xml.etree import ElementTree

from cosmic_ray.commands import init
from cosmic_ray.mutating import mutate_and_test
from cosmic_ray.work_db import WorkDB, use_db
from cosmic_ray.work_item import MutationSpec, TestOutcome
from coverage import CoverageData

TIMEOUT_S = 180.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Tried:
    """One change, and what came of it."""

    file: str
    line_number: int
    line: str
    operator: str
    killed: bool
    diff: str

    @property
    def key(self) -> tuple[str, str, str]:
        return (self.file, self.line, self.operator)

    def __str__(self) -> str:
        return f"{self.file}:{self.line_number} {self.operator}\n{self.diff}"


def changes(root: Path, sources: Sequence[str]) -> list[MutationSpec]:
    """All changes of these files and folders, in order; none of an annotation or a decorator."""
    paths = [p for s in sources for p in (sorted((root / s).glob("**/*.py")) or [root / s])]
    with use_db(":memory:", WorkDB.Mode.create) as work:
        init([path.relative_to(root) for path in paths], work, {})
        found = [item.mutations[0] for item in work.work_items]
    left_alone = {str(path.relative_to(root)): _left_alone(path) for path in paths}
    kept = [
        spec
        for spec in found
        if not any(a <= spec.start_pos < b for a, b in left_alone[str(spec.module_path)])
    ]
    return sorted(
        kept,
        key=lambda s: (str(s.module_path), s.start_pos, s.operator_name, s.occurrence),
    )


def _left_alone(path: Path) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """Where annotations and decorators begin and end.

    A change of an annotation fails on import or changes nothing; `cache` and
    `dataclass(frozen=True, slots=True)` change no result.
    """
    found: list[ast.expr] = []
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        expressions = [getattr(node, name, None) for name in ("annotation", "returns")]
        found += [one for one in expressions if one is not None]
        found += getattr(node, "decorator_list", [])
    return [
        ((n.lineno, n.col_offset - 1), (n.end_lineno or n.lineno, n.end_col_offset or 0))
        for n in found
    ]


def outcomes(
    root: Path, folder: Path, files: Sequence[str], chosen: Sequence[MutationSpec], workers: int
) -> Iterator[Tried]:
    """What came of each change, in order. `folder`: an empty one, for copies of `root`."""
    for worker in range(workers):
        _copy(root, folder / str(worker))
    covering = _Covering(folder / "0", files)
    free = [str(folder / str(worker)) for worker in range(workers)]
    # Each process takes one copy for itself.
    parts = [list(chosen[i::workers]) for i in range(workers)]
    with ProcessPoolExecutor(workers) as pool:
        running = [
            pool.submit(_try_all, place, part, [covering.tests(spec) for spec in part])
            for place, part in zip(free, parts, strict=True)
        ]
        done = [future.result() for future in running]
    for i in range(len(chosen)):
        yield done[i % workers][i // workers]


def _try_all(
    folder: str, specs: Sequence[MutationSpec], tests: Sequence[Sequence[str]]
) -> list[Tried]:
    os.chdir(folder)
    os.environ.update(_environment(Path(folder)))
    return [_try(spec, names) for spec, names in zip(specs, tests, strict=True)]


def _try(spec: MutationSpec, tests: Sequence[str]) -> Tried:
    line = Path(spec.module_path).read_text("utf-8").splitlines()[spec.start_pos[0] - 1].strip()
    result = mutate_and_test([spec], shlex.join([*_pytest(), "-x", *tests]), TIMEOUT_S)
    if result.test_outcome == TestOutcome.INCOMPETENT or result.test_outcome is None:
        raise RuntimeError(f"{spec.module_path}:{spec.start_pos[0]}: {result.output}")
    killed = result.test_outcome == TestOutcome.KILLED
    sys.stderr.write("." if killed else f"\n{spec.module_path}:{spec.start_pos[0]} survived\n")
    sys.stderr.flush()
    return Tried(
        file=str(spec.module_path),
        line_number=spec.start_pos[0],
        line=line,
        operator=spec.operator_name,
        killed=killed,
        diff=result.diff or "",
    )


def _pytest() -> list[str]:
    return [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]


def _copy(root: Path, folder: Path) -> None:
    """The sources and tests, importable from there alone."""
    for name in ("hardware", "sim", "planners", "backend", "experiments", "tests", "docs"):
        shutil.copytree(root / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(root / name, folder / name)
    (folder / "path").mkdir()
    (folder / "path" / "parplan").symlink_to(folder)


def _environment(folder: Path) -> dict[str, str]:
    return {"PYTHONPATH": f"{folder}/path", "PYTHONDONTWRITEBYTECODE": "1"}


class _Covering:
    """Which tests reach a line, and how long they take, from one run of all in a copy."""

    def __init__(self, folder: Path, files: Sequence[str]) -> None:
        (folder / "contexts.cfg").write_text("[run]\ndynamic_context = test_function\n")
        coverage = ["-m", "coverage", "run", "--rcfile=contexts.cfg", "--source=parplan,."]
        pytest = [*_pytest()[1:], "--junitxml=times.xml", *files]
        environment = {**os.environ, **_environment(folder)}
        ran = subprocess.run(
            [sys.executable, *coverage, *pytest],
            cwd=folder,
            env=environment,
            check=False,
            capture_output=True,
            text=True,
        )
        if ran.returncode:
            raise RuntimeError(f"the tests fail as they are:\n{ran.stdout[-3000:]}")
        self._folder = folder
        self._data = CoverageData(str(folder / ".coverage"))
        self._data.read()
        self._seconds = _seconds(folder / "times.xml")

    def tests(self, spec: MutationSpec) -> list[str]:
        """The tests that reach the changed lines, quick ones first, then the others: what the
        first one keeps in a cache, the next one does not reach."""
        contexts = self._data.contexts_by_lineno(str(self._folder / spec.module_path))
        lines = range(spec.start_pos[0], spec.end_pos[0] + 1)
        reach = {_node(name) for line in lines for name in contexts.get(line, ()) if name}
        near = {_node(name) for names in contexts.values() for name in names if name}
        rank = partial(_rank, reach, near)
        return sorted(self._seconds, key=lambda name: (rank(name), self._seconds[name]))


def _rank(reach: set[str], near: set[str], name: str) -> int:
    return 0 if name in reach else 1 if name in near else 2


def _node(context: str) -> str:
    """`tests.test_fast.test_x` as pytest names it."""
    module, function = context.removeprefix("tests.").split(".")[:2]
    return f"tests/{module}.py::{function}"


def _seconds(times: Path) -> dict[str, float]:
    """The time of each test function, with all its parameters."""
    seconds: dict[str, float] = {}
    for case in ElementTree.parse(times).iter("testcase"):
        name = _node(f"{case.attrib['classname']}.{case.attrib['name'].split('[')[0]}")
        seconds[name] = seconds.get(name, 0.0) + float(case.attrib["time"])
    return seconds
