"""`parplan train`: what it prints, and that a process that fails ends all within a stated time."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.commands import parplan, wait_for

SCRIPT = Path(__file__).with_name("faulty_script.py")

NEVER_CALLED = "never called enable_advanced_parallelization"

pytestmark = pytest.mark.timeout(300)


def train(what: str, cwd: Path, timeout_s: int = 90) -> subprocess.CompletedProcess[str]:
    arguments = ("--processes", "2", "--timeout-s", str(timeout_s), SCRIPT, what)
    return parplan("train", *arguments, cwd=cwd)


def still_there(what: str) -> bool:
    """Whether a process of the script with this argument is left."""
    for path in Path("/proc").glob("[0-9]*"):
        try:
            words = (path / "cmdline").read_text().split("\0")
        except OSError:
            continue
        if str(SCRIPT) in words and words[-2:-1] == [what]:
            return True
    return False


def test_the_first_process_speaks_for_all(tmp_path: Path) -> None:
    done = train("well", tmp_path)
    assert done.returncode == 0, done.stderr
    assert [line.split(":")[0] for line in done.stdout.splitlines()] == [
        "step 0",
        "step 1",
        "step 2",
    ]
    assert done.stderr.count("[info] train: true") == 1
    assert NEVER_CALLED not in done.stderr


def test_a_script_without_the_line_is_told(tmp_path: Path) -> None:
    (tmp_path / "plain.py").write_text("print('trained')\n")
    done = parplan("train", "--processes", "2", "plain.py", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "trained\n")
    assert done.stderr.splitlines()[-1] == (
        f"parplan: plain.py {NEVER_CALLED}, so nothing was planned: each of 2 processes ran the "
        "script as it is"
    )


@pytest.mark.parametrize(
    ("what", "timeout_s", "text"),
    [
        ("killed", 90, "worker 1 died with signal 9 (SIGKILL)"),
        pytest.param(
            *("stopped", 15, "process 1 has not answered for 15 s, it was in step 2; "),
            marks=pytest.mark.long,
        ),
    ],
)
def test_a_process_that_fails_ends_all(
    what: str, timeout_s: int, text: str, tmp_path: Path
) -> None:
    done = train(what, tmp_path, timeout_s)
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith("parplan: failed: ")
    assert text in last
    # It ends within the limit of this test, long before torch's own 30 minutes.
    wait_for(lambda: not still_there(what), 60)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("nowhere.py",), "nowhere.py: there is no such script"),
        (("--processes", "0", SCRIPT), "processes: must be at least 1, got 0"),
        (("--timeout-s", "0", SCRIPT), "--timeout-s: must be above 0, got 0"),
    ],
)
def test_mistakes_are_told_in_one_line(arguments, text, tmp_path: Path) -> None:
    done = parplan("train", *arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr == f"parplan: error: {text}\n"


def alone(environment: dict[str, str], cwd: Path) -> str:
    """The last line of the script, started by hand in such an environment."""
    done = subprocess.run(
        [sys.executable, SCRIPT, "well"],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 1
    return done.stderr.splitlines()[-1]


def test_processes_without_an_address(tmp_path: Path) -> None:
    assert alone({"WORLD_SIZE": "2", "RANK": "0"}, tmp_path).endswith(
        "no process group: WORLD_SIZE is 2, but MASTER_ADDR is not set; start the script with "
        "parplan train or torchrun"
    )


def test_a_port_that_is_in_use(tmp_path: Path) -> None:
    with socket.socket(socket.AF_INET6) as taken:
        taken.bind(("::", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        where = {"MASTER_ADDR": "localhost", "MASTER_PORT": port}
        last = alone({"WORLD_SIZE": "2", "RANK": "0", **where}, tmp_path)
    assert last.startswith("parplan: error (process 0): no process group (MASTER_ADDR localhost, ")
    assert "the port is in use; give torchrun --standalone or another --master-port" in last
