"""How commands start: help and mistakes without the libraries that draw and fit."""

import subprocess
import sys
from pathlib import Path

HEAVY = ("matplotlib", "scipy", "pandas", "torch", "rich")

CODE = """
import contextlib, io, sys
from parplan.experiments.cli import COMMANDS, main
job = ["plan", "llama3-8b", "--cluster", "8xh100", "--global-batch", "32"]
wrong = [[*job], ["plam"], [*job, "--seq-len", "x"], [*job[:2], "--seq-len", "1"]]
for words in [*([name, "--help"] for name in COMMANDS), *wrong, []]:
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        try:
            main(words)
        except SystemExit:
            pass
    loaded = [name for name in sys.argv[1:] if name in sys.modules]
    if loaded:
        print(words, loaded)
        break
"""


def test_help_and_mistakes_load_nothing_heavy(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", CODE, *HEAVY],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
