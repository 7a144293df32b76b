"""What surrounds a command: bytes, special files, folders, the environment, clocks, signals.

Targets as those of `tests.system.fuzz_targets`.
"""

import contextlib
import io
import os
import signal
import socket
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

from hypothesis import strategies as st

from parplan.experiments import cli
from tests.system.fault_commands import COMMANDS, JOB, eager, files, prepared
from tests.system.fuzz.readers import READERS, valid
from tests.system.fuzz_commands import ran
from tests.system.fuzz_documents import Draw

PIECES = [
    *(b"", b"\0", b"\xff", b"\xfe\xff", b"\xef\xbb\xbf", b"\r\n", b"\n", b"{", b"}", b'"', b"\\"),
    *(b"\x1b[2J", b"\xc3", b"\xed\xa0\x80", b"1e999", b"NaN", b"-", b"9" * 400, b"[" * 3000),
    *(b"#", b"= ", b"..", b"\x00" * 600, "\u2028\u202e".encode(), b"null", b"true"),
]


def raw_bytes(draw: Draw, folder: Path) -> bool:
    """Files of every kind with bytes cut, doubled, turned or put in, or of bytes alone."""
    name = draw(st.sampled_from(sorted(READERS)))
    content = valid()[name]
    if draw(st.integers(0, 9)) == 0:
        content = draw(st.binary(max_size=60))
    for _ in range(draw(st.integers(0, 3))):
        begin = draw(st.integers(0, len(content)))
        end = min(len(content), begin + draw(st.sampled_from([0, 1, 2, 8, 60, 10**6])))
        other = draw(
            st.one_of(
                st.sampled_from(PIECES), st.binary(max_size=3), st.just(content[begin:end] * 2)
            )
        )
        content = content[:begin] + other[:20_000] + content[end:]
    return read_content(name, content, folder)


def read_content(name: str, content: bytes, folder: Path) -> bool:
    """Read such a file by what reads its kind."""
    path = folder / "it" / name
    path.parent.mkdir()
    path.write_bytes(content)
    READERS[name](path)
    return True


SPECIAL = ("folder", "pipe", "socket", "loop", "dangling", "null", "zero", "full", "link to pipe",
           "huge", "other file", "nothing", "long name", "nul")  # fmt: skip

INPUTS: dict[str, tuple[str, ...]] = {
    "space.toml": ("plan", *JOB, "--cluster", "4xh100", "--space", "IT", "-o", "made"),
    "plan.json": ("simulate", "IT", "-o", "made"),
    "launch.sh": ("import", "IT", "--from", "megatron", "--cluster", "8xh100", "-o", "made"),
    "cluster.toml": ("hardware", "show", "IT"),
    "cases.jsonl": ("validate", "IT", "-o", "made"),
    "folder": ("report", "IT"),
    "output": ("export", "plan.json", "--to", "deepspeed", "-o", "IT"),
    "page": ("report", "made", "-o", "IT"),
}  # fmt: skip


def special(kind: str, path: Path) -> str:
    """Something that is no regular file, or none that can be read whole; what is to be given."""
    if kind == "folder":
        path.mkdir()
        (path / "mine.txt").write_text("mine")
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as made, contextlib.chdir(path.parent):
            made.bind(path.name)
    elif kind == "loop":
        path.symlink_to(path.name)
    elif kind == "dangling":
        path.symlink_to("no/such/file")
    elif kind in ("null", "zero", "full"):
        path.symlink_to(f"/dev/{kind}")
    elif kind == "link to pipe":
        os.mkfifo(path.parent / "the-pipe")
        path.symlink_to("the-pipe")
    elif kind == "huge":
        with path.open("wb") as file:
            file.truncate(2**40)
    elif kind == "other file":
        path.write_bytes(b"\x7fELF\0\0\0mine")
    elif kind == "long name":
        return "x" * 5000
    elif kind == "nul":
        return "a\0b"
    return path.name


def special_files(draw: Draw, folder: Path) -> bool:
    """Special files where a file or a folder is read or written; they stay what they are."""
    kind = draw(st.sampled_from(SPECIAL))
    words = list(INPUTS[draw(st.sampled_from(sorted(INPUTS)))])
    (folder / "plan.json").write_bytes(valid()["plan.json"])
    if draw(st.booleans()) and words[0] != "report":
        (folder / "made").write_text("a file of the user")
    name = special(kind, folder / "it")
    if draw(st.booleans()) and kind not in ("long name", "nul"):
        name = str(folder / name)
    before = shape(folder)
    words[words.index("IT")] = name
    code, _, said = ran(words, folder)
    after = shape(folder)
    assert {n: after.get(n) for n in before} == before, (kind, words)
    return judged(code, said, words)


def shape(folder: Path) -> dict[str, Any]:
    """What there is, so that a change of it is seen."""
    found: dict[str, Any] = {}
    for path in sorted(folder.iterdir()):
        status = path.lstat()
        regular = path.is_file() and not path.is_symlink() and status.st_size < 10**6
        found[path.name] = (status.st_mode, path.read_bytes() if regular else status.st_size)
        if path.is_dir() and not path.is_symlink():
            found[path.name] = status.st_mode
            mine = path / "mine.txt"
            found[f"{path.name}/mine"] = mine.read_bytes() if mine.exists() else None
    return found


def judged(code: int, said: str, words: Any) -> bool:
    """Whether a command was accepted; what is refused is so in one line."""
    assert code in (0, 1, 2), (words, code, said)
    assert "Traceback" not in said, words
    if code == 2:
        assert sum("error:" in line for line in said.splitlines()) == 1, (words, said)
        assert len(said) < 20_000, words
        return False
    return True


ENVIRONMENT: dict[str, list[str]] = {
    **{name: ["auto", "0", "-1", "2", "1e3", "abc", "", "9" * 30, "nan", "\x1b[2J"] for name in (
        "PARPLAN_MEMORY_RATIO_PERCENT", "PARPLAN_WORKERS", "PARPLAN_DETAILED_LOG",
        "PARPLAN_NUM_STAGES")},
    "PARPLAN_DEBUG": ["1", "0", "x"],
    "MPLBACKEND": ["module://no.such", "", "tkagg", "nonsense"],
    "COLUMNS": ["0", "-5", "abc", "9" * 20, "1", ""],
    "LINES": ["0", "x"],
    "NO_COLOR": ["1", ""],
    "TERM": ["dumb", "", "xterm-256color", "\x1b"],
    "LANG": ["C", "tr_TR.UTF-8", "no_SUCH", ""],
    "LC_ALL": ["C", "POSIX", "x"],
    "TZ": ["Asia/Kathmandu", "no/such", ":", ""],
    "HOME": ["/no/such", "", "/dev/null"],
    "TMPDIR": ["/no/such", "", "/dev/null"],
    "OMP_NUM_THREADS": ["0", "-1", "x", "64"],
    "NUMBA_DISABLE_JIT": ["1", "0"],
    "PYTHONHASHSEED": ["7", "random"],
    "XDG_CACHE_HOME": ["/no/such"],
    "WORLD_SIZE": ["4", "x"],
    "RANK": ["1", "x"],
    "CUDA_VISIBLE_DEVICES": ["", "-1", "7"],
}  # fmt: skip

CHANGE_RESULTS = "PARPLAN_"


def environment(draw: Draw, folder: Path) -> bool:
    """Variables of the environment change no result but by their own names, and never crash."""
    names = draw(st.lists(st.sampled_from(sorted(ENVIRONMENT)), max_size=4, unique=True))
    given = {name: draw(st.sampled_from(ENVIRONMENT[name])) for name in names}
    command = COMMANDS[draw(st.sampled_from(["plan", "landscape", "export"]))]
    root = prepared(folder / "w")
    with mock.patch.dict(os.environ, given):
        code, _, said = ran(command.words, root)
    accepted = judged(code, said, given)
    if not any(name.startswith(CHANGE_RESULTS) for name in names):
        assert code == 0, (given, said)
    if accepted and code == 0 and not any(name.startswith(CHANGE_RESULTS) for name in names):
        assert files(root / command.output) == clean(command.words[0]), given
    return accepted


_CLEAN: dict[str, dict[str, bytes]] = {}


def clean(name: str) -> dict[str, bytes]:
    """The results of a command that nothing disturbs."""
    if name not in _CLEAN:
        with tempfile.TemporaryDirectory() as top:
            root = prepared(Path(top) / "w")
            code, _, said = ran(COMMANDS[name].words, root)
            assert code == 0, said
            _CLEAN[name] = files(root / COMMANDS[name].output)
    return _CLEAN[name]


FOUND = [
    *("manifest.json", ".parplan-files", "trials.csv", "plan.json", "summary.json", "search.jsonl"),
    *(
        "cells.jsonl",
        ".manifest.json.abcd1234.parplan-part",
        "mine.txt",
        "report.html",
        "gantt.png",
    ),
    *(".hidden", "landscape.csv", "..parplan-files.abcd1234.parplan-part", "timeline.json.gz"),
]
CONTENTS = [
    *(b"", b"mine", b"\xff\xfe", b"trials.csv\nmine.txt\n", b"../outside.txt\n/etc/hostname\n"),
    *(b"{}", b"[]", b'{"arguments": [], "files": ["../outside.txt", "mine.txt"]}', b"mine.txt"),
    *(b'{"arguments": [], "files": [1, null]}', b'{"arguments": 1, "inputs": 2, "files": {}}'),
    *(b'{"line": 0, "crc32": "00000000", "row": {}}\n', b'{"parplan_search": 2}', b".\n..\n\0\n"),
    b'{"arguments": ["plan"], "inputs": [1], "files": ["trials.csv"]}',
]


def folders(draw: Draw, folder: Path) -> bool:
    """Output folders in which there is something already: nothing of the user's is lost."""
    command = COMMANDS[draw(st.sampled_from(["plan", "landscape", "export", "execute"]))]
    root = prepared(folder / "w")
    (root / "outside.txt").write_text("outside")
    out = root / "out"
    out.mkdir()
    given: dict[str, bytes] = {}
    for name in draw(st.lists(st.sampled_from(FOUND), max_size=4, unique=True)):
        if draw(st.integers(0, 7)) == 0:
            (out / name).mkdir()
        else:
            given[name] = draw(st.sampled_from(CONTENTS))
            (out / name).write_bytes(given[name])
    words = list(command.words)
    extra = {"plan": "--resume", "execute": "--resume", "landscape": "--force"}.get(words[0])
    if extra and draw(st.booleans()):
        words.insert(1, extra)
    with command.around():
        code, _, said = ran(words, root)
    accepted = judged(code, said, (words, given))
    assert (root / "outside.txt").read_text() == "outside", given
    lists = [given.get(name, b"") for name in (".parplan-files", "manifest.json")]
    for name, content in given.items():
        # Names that a list of parplan's claims are its own; so are its lists and parts.
        claimed = any(name.encode() in own for own in lists) or name.endswith("parplan-part")
        if name in ("mine.txt", ".hidden") and not claimed:
            assert (out / name).read_bytes() == content, (words, given)
    return accepted


def clocks(draw: Draw, folder: Path) -> bool:
    """Clocks that jump, stand or go back change no byte."""
    command = COMMANDS[draw(st.sampled_from(["plan", "landscape", "plan-by-planner"]))]
    jumps = draw(
        st.lists(
            st.sampled_from([0.0, 1e-9, 0.5, 3.0, 86400.0, 1e9, -5.0, -1e9]), min_size=1, max_size=6
        )
    )
    root, count = prepared(folder / "w"), 0
    ahead = {"time": 0.0, "monotonic": 0.0, "perf_counter": 0.0}

    def clock(name: str) -> Callable[[], float]:
        real = getattr(time, name)

        def now() -> float:
            nonlocal count
            jump = jumps[count % len(jumps)]
            count += 1
            # Those that cannot go back do not.
            ahead[name] += jump if name == "time" else max(0.0, jump)
            return float(real() + ahead[name])

        return now

    patches = [mock.patch.object(time, name, clock(name)) for name in ahead]
    with contextlib.ExitStack() as stack:
        for patch in patches:
            stack.enter_context(patch)
        code, _, said = ran(command.words, root)
    assert code == 0, said
    assert files(root / command.output) == clean(_name_of(command)), jumps
    return True


def _name_of(command: Any) -> str:
    return next(name for name, own in COMMANDS.items() if own is command)


SIGNALS = (signal.SIGINT, signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGALRM,
           signal.SIGUSR1, signal.SIGCONT, signal.SIGWINCH)  # fmt: skip


def signals(draw: Draw, folder: Path) -> bool:
    """A signal at any moment: one line or a death by it, and the run that goes on loses nothing."""
    name = draw(st.sampled_from(["plan", "landscape", "scale"]))
    command = COMMANDS[name]
    signum = draw(st.sampled_from(SIGNALS))
    after_s = draw(st.floats(0.001, 0.4))
    root = prepared(folder / "w")
    code, said = in_fork(lambda: signalled(command.words, root, signum, after_s), root)
    if code in (-signal.SIGKILL, 99):
        raise AssertionError((code, said))
    assert code in (0, 130, -signum), (code, said)
    assert "Traceback" not in said, said
    again = in_fork(lambda: quiet([*command.words, *command.again], root), root)
    assert again[0] == 0, again
    assert files(root / command.output) == clean(name), (signum, after_s)
    return code == 0


def signalled(words: Any, root: Path, signum: int, after_s: float) -> int:
    """Run a command, which gets a signal a while after it began."""
    own, real, ended = os.getpid(), cli._run, False
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for other in (signal.SIGTERM, signal.SIGHUP, signal.SIGALRM, signal.SIGUSR1):
        signal.signal(other, signal.SIG_DFL)

    def begun(argv: list[str]) -> int:
        # What Python does around a fork is not what is tried.
        signal.pthread_sigmask(signal.SIG_BLOCK, [signum])
        killer = os.fork()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signum])
        if killer == 0:
            time.sleep(after_s)
            with contextlib.suppress(ProcessLookupError):
                os.kill(own, signum)
            os._exit(0)
        return real(argv)

    try:
        with eager(), mock.patch.object(cli, "_run", begun):
            code = quiet(words, root)
            ended = True
            return code
    except KeyboardInterrupt:  # When all was done.
        assert ended
        return 130


def quiet(words: Any, root: Path) -> int:
    """Run a command in a folder."""
    os.chdir(root)
    return cli.main(list(words))


def in_fork(run: Callable[[], int], root: Path) -> tuple[int, str]:
    """The exit code and stderr of a function in a process of its own."""
    said = root.parent / "stderr"
    process = os.fork()
    if process == 0:
        code = 99
        try:
            signal.alarm(0)
            out, err = io.StringIO(), said.open("w")
            with contextlib.redirect_stdout(out), err, contextlib.redirect_stderr(err):
                code = run()
        except BaseException:
            said.write_text(traceback.format_exc())
        finally:
            os._exit(code)
    _, status = os.waitpid(process, 0)
    return os.waitstatus_to_exitcode(status), said.read_text()


WORLD = {
    target.__name__: target
    for target in (raw_bytes, special_files, environment, folders, clocks, signals)
}
