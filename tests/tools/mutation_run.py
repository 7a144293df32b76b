"""Changes of sources, and whether tests notice them: those that reach the changed line go first."""

import ast
import difflib
import io
import itertools
import os
import shutil
import sys
import tokenize
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from cosmic_ray.commands import init
from cosmic_ray.mutating import apply_mutation
from cosmic_ray.plugins import get_operator
from cosmic_ray.work_db import WorkDB, use_db
from cosmic_ray.work_item import MutationSpec

from tests.tools.forked_tests import Ran, passes, prepare
from tests.tools.reaching_tests import Reach, reach_of

Position = tuple[int, int]


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
    """All changes of these files and folders, in order, but those of what is `_left_alone`."""
    paths = [p for s in sources for p in (sorted((root / s).glob("**/*.py")) or [root / s])]
    with use_db(":memory:", WorkDB.Mode.create) as work:
        init([path.relative_to(root) for path in paths], work, {})
        found = [item.mutations[0] for item in work.work_items]
    left_alone = {str(p.relative_to(root)): _left_alone(p.read_text("utf-8")) for p in paths}
    kept = [
        spec
        for spec in found
        if not any(a <= spec.start_pos < b for a, b in left_alone[str(spec.module_path)])
    ]
    return sorted(
        kept,
        key=lambda s: (str(s.module_path), s.start_pos, s.operator_name, s.occurrence),
    )


def _left_alone(source: str) -> list[tuple[Position, Position]]:
    """Where annotations, decorators and stars that multiply nothing begin and end.

    A change of an annotation fails on import or changes nothing; `cache` and
    `dataclass(frozen=True, slots=True)` change no result; `f(/, a)` or `(+values,)` is not
    Python, or no test's merit.
    """
    found: list[ast.expr] = []
    for node in ast.walk(ast.parse(source)):
        expressions = [getattr(node, name, None) for name in ("annotation", "returns")]
        found += [one for one in expressions if one is not None]
        found += getattr(node, "decorator_list", [])
    return [
        ((n.lineno, n.col_offset - 1), (n.end_lineno or n.lineno, n.end_col_offset or 0))
        for n in found
    ] + _stars(source)


def _stars(source: str) -> list[tuple[Position, Position]]:
    """The stars of parameters and of what is unpacked: they follow an opening or a comma."""
    blank = (tokenize.NL, tokenize.COMMENT, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT)
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    words = [token for token in tokens if token.type not in blank]
    return [
        (token.start, token.end)
        for before, token in itertools.pairwise(words)
        if token.string in ("*", "**") and before.string in ("(", "[", "{", ",", "=", ":")
    ]


def outcomes(
    root: Path, folder: Path, files: Sequence[str], chosen: Sequence[MutationSpec], workers: int
) -> Iterator[Tried]:
    """What came of each change, in order. `folder`: an empty one, for copies of `root`."""
    for worker in range(workers):
        _copy(root, folder / str(worker))
    reach = reach_of(folder / "0", files, root / "build" / "mutants")
    free = [str(folder / str(worker)) for worker in range(workers)]
    # Each process takes one copy for itself.
    parts = [list(chosen[i::workers]) for i in range(workers)]
    with ProcessPoolExecutor(workers) as pool:
        running = [
            pool.submit(_try_all, place, files, part, reach)
            for place, part in zip(free, parts, strict=True)
        ]
        done = [future.result() for future in running]
    for i in range(len(chosen)):
        yield done[i % workers][i // workers]


def _try_all(
    folder: str, files: Sequence[str], specs: Sequence[MutationSpec], reach: Reach
) -> list[Tried]:
    os.chdir(folder)
    prepare(Path(folder), files)
    return [_try(spec, reach) for spec in specs]


def _try(spec: MutationSpec, reach: Reach) -> Tried:
    path, line_number = Path(spec.module_path), spec.start_pos[0]
    times = path.stat()
    before, after = apply_mutation(path, get_operator(spec.operator_name)(), spec.occurrence)
    if after is None:
        raise RuntimeError(f"{path}:{line_number}: {spec.operator_name} changes nothing")
    ran = Ran.PASSED
    for tests in reach.tests(str(path), range(line_number, spec.end_pos[0] + 1)):
        if ran is Ran.PASSED and tests:
            ran = passes(tests, reach.seconds, recompiles=path.name)
    path.write_text(before, "utf-8")
    # As it was, so that what was compiled from it stays good.
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    survived = f"\n{path}:{line_number} survived\n"
    sys.stderr.write({Ran.PASSED: survived, Ran.FAILED: ".", Ran.TOO_LONG: "t"}[ran])
    sys.stderr.flush()
    lines, changed = before.splitlines(), after.splitlines()
    return Tried(
        file=str(path),
        line_number=line_number,
        line=lines[line_number - 1].strip(),
        operator=spec.operator_name,
        killed=ran is not Ran.PASSED,
        diff="\n".join(difflib.unified_diff(lines, changed, lineterm="", n=1)),
    )


def _copy(root: Path, folder: Path) -> None:
    """The sources and tests, importable from there alone."""
    packages = ("hardware", "sim", "planners", "backend", "experiments")
    for name in (*packages, "parplan", "tests", "docs"):
        shutil.copytree(root / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy2(root / name, folder / name)
    place = folder / "path" / "parplan"
    place.mkdir(parents=True)
    for path in (*map(folder.joinpath, packages), *(folder / "parplan").iterdir()):
        (place / path.name).symlink_to(path)
