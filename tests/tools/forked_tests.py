"""Tests in forked processes, which need not start Python and import its libraries again.

What forks has no part of parplan and its tests loaded, so that every fork loads them as they are.
"""

import contextlib
import enum
import importlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path

import hypothesis
import pytest

START_S, TIMES = 10.0, 5.0
"""A test may take so long, and so many times longer than without a change."""

COLLECTING_S = 60.0
"""So long may the import of the tests take."""

ARGUMENTS = ("-q", "-p", "no:cacheprovider", "-x", "--timeout=0", "--timeout-method=thread")

LIBRARIES = ("numba", "numpy", "pandas", "scipy.optimize", "simpy")

COMPILED = {"sweep.py", "fifo_loop.py", "numba_loops.py"}
"""Sources of machine code: with a change, numba compiles them again."""


class Ran(enum.Enum):
    """What came of tests."""

    PASSED = enum.auto()
    FAILED = enum.auto()
    TOO_LONG = enum.auto()


def node(context: str) -> str:
    """`tests.sim.fast.test_fast.test_x` as pytest names it."""
    module, _, function = context.rpartition(".")
    return f"{module.replace('.', '/')}.py::{function}"


def environment(folder: Path) -> dict[str, str]:
    """With this copy's parplan, and numba's machine code kept in it."""
    return {"PYTHONPATH": f"{folder}/path", "NUMBA_CACHE_DIR": f"{folder}/machine-code"}


class _Limits:
    """Ends the process where a test takes too long, even in compiled code; failures stay as found,
    and random inputs are always the same."""

    def __init__(self, seconds: Mapping[str, float]) -> None:
        self.seconds = seconds

    def pytest_sessionstart(self) -> None:
        phases = (hypothesis.Phase.explicit, hypothesis.Phase.generate)
        hypothesis.settings.register_profile(
            "mutants", hypothesis.settings(), phases=phases, derandomize=True, database=None
        )
        hypothesis.settings.load_profile("mutants")
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, COLLECTING_S)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        usual = self.seconds.get(item.nodeid.split("[")[0], 0.0)
        signal.setitimer(signal.ITIMER_REAL, START_S + TIMES * usual)
        try:
            return (yield)
        finally:
            signal.setitimer(signal.ITIMER_REAL, START_S)


def prepare(folder: Path, files: Sequence[str]) -> None:
    """Load libraries into this process, and compile parplan and these tests in `folder`."""
    for library in LIBRARIES:
        importlib.import_module(library)
    os.environ.update(environment(folder))
    command = [sys.executable, "-m", "pytest", *ARGUMENTS, "--collect-only", *files]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"


def unchanged(folder: Path, files: Sequence[str], seconds: Mapping[str, float]) -> Ran:
    """What comes of these tests of a copy in which nothing is changed."""
    os.chdir(folder)
    prepare(folder, files)
    return passes(files, seconds, recompiles="")


def passes(tests: Sequence[str], seconds: Mapping[str, float], *, recompiles: str) -> Ran:
    """Whether these tests pass in this folder. `recompiles`: the name of the changed file."""
    with tempfile.TemporaryDirectory(prefix="mutant-") as name:
        machine_code = Path(os.environ["NUMBA_CACHE_DIR"])
        if recompiles in COMPILED and machine_code.exists():
            machine_code = shutil.copytree(machine_code, Path(name) / "machine-code")
        child = os.fork()
        if not child:
            _run(tests, seconds, machine_code)
        _, status = os.waitpid(child, 0)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(status)
    if code == pytest.ExitCode.OK:
        return Ran.PASSED
    return Ran.TOO_LONG if code == -signal.SIGALRM else Ran.FAILED


def _run(tests: Sequence[str], seconds: Mapping[str, float], machine_code: Path) -> None:
    """The child: tests, then the end."""
    code = 99
    try:
        os.setsid()
        nothing = os.open(os.devnull, os.O_RDWR)
        for descriptor in range(3):
            os.dup2(nothing, descriptor)
        importlib.import_module("numba").config.CACHE_DIR = os.environ["NUMBA_CACHE_DIR"] = str(
            machine_code
        )
        sys.dont_write_bytecode = True
        own = [m for m in sys.modules if m.split(".")[0] in ("tests", "parplan")]
        for module in own:
            del sys.modules[module]
        sys.path[:0] = [os.getcwd(), os.environ["PYTHONPATH"]]
        code = int(pytest.main([*ARGUMENTS, *tests], plugins=[_Limits(seconds)]))
    finally:
        os._exit(code)
