"""Which tests reach a line, and how long they take, from one run of all in a copy."""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from coverage import CoverageData

from tests.tools.forked_tests import ARGUMENTS, Ran, environment, node, unchanged


@dataclass(frozen=True, slots=True, kw_only=True)
class Reach:
    """Which tests reach which lines, by file, and the seconds of each test."""

    lines: Mapping[str, Mapping[str, Sequence[str]]]
    """By file and number of the line."""
    seconds: Mapping[str, float]

    def tests(self, file: str, lines: Iterable[int]) -> tuple[list[str], list[str]]:
        """The tests that reach one of the lines, and then the others: what the first one keeps in
        a cache, the next one does not reach. Quick ones first; of the others those of the file."""
        contexts = self.lines.get(file, {})
        reach = {name for line in lines for name in contexts.get(str(line), ())}
        near = {name for names in contexts.values() for name in names}
        quick = sorted(self.seconds, key=lambda name: (name not in near, self.seconds[name]))
        return [n for n in quick if n in reach], [n for n in quick if n not in reach]


def reach_of(folder: Path, files: Sequence[str], kept: Path) -> Reach:
    """Of the tests in `files` of the copy in `folder`; kept in `kept` until a file changes."""
    place = kept / f"{_digest(folder, files)}.json"
    if not place.exists():
        found = _measured(folder, files)
        with ProcessPoolExecutor(1) as pool:
            ran = pool.submit(unchanged, folder, files, found["seconds"]).result()
        if ran is not Ran.PASSED:
            raise RuntimeError(f"forked, the tests do not pass as they are: {ran}")
        kept.mkdir(parents=True, exist_ok=True)
        place.write_text(json.dumps(found))
    return Reach(**json.loads(place.read_text("utf-8")))


def _digest(folder: Path, files: Sequence[str]) -> str:
    digest = hashlib.sha256(repr(sorted(files)).encode())
    tests = {folder / file for file in files}
    for path in sorted(folder.glob("*/**/*.py")):
        if "path" not in path.parts and (not path.name.startswith("test_") or path in tests):
            digest.update(str(path.relative_to(folder)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


def _measured(folder: Path, files: Sequence[str]) -> dict[str, Any]:
    (folder / "contexts.cfg").write_text("[run]\ndynamic_context = test_function\n")
    coverage = ["-m", "coverage", "run", "--rcfile=contexts.cfg", "--source=parplan,."]
    ran = subprocess.run(
        [sys.executable, *coverage, "-m", "pytest", *ARGUMENTS, "--junitxml=times.xml", *files],
        cwd=folder,
        env={**os.environ, **environment(folder)},
        check=False,
        capture_output=True,
        text=True,
    )
    if ran.returncode:
        raise RuntimeError(f"the tests fail as they are:\n{ran.stdout[-3000:]}")
    data = CoverageData(str(folder / ".coverage"))
    data.read()
    lines: dict[str, dict[str, list[str]]] = {}
    for path in data.measured_files():
        contexts = data.contexts_by_lineno(path)
        own = {str(n): sorted({node(c) for c in names if c}) for n, names in contexts.items()}
        lines[str(Path(path).relative_to(folder))] = own
    return {"lines": lines, "seconds": _seconds(folder / "times.xml")}


def _seconds(times: Path) -> dict[str, float]:
    """The time of each test function, with all its parameters."""
    seconds: dict[str, float] = {}
    for case in ElementTree.parse(times).iter("testcase"):
        name = node(f"{case.attrib['classname']}.{case.attrib['name'].split('[')[0]}")
        seconds[name] = seconds.get(name, 0.0) + float(case.attrib["time"])
    return seconds
