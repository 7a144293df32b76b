"""What no one foresaw ends in one line and a report; what a terminal obeys never reaches it."""

import contextlib
import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from parplan.errors import MOST_CHARACTERS, ParplanError
from parplan.experiments import cli
from parplan.experiments.terminal import clean_output

PLAN = ("plan", "gpt-tiny", "--cluster", "8xh100", "--seq-len", "64", "--global-batch", "16")


def ran(
    folder: Path, *words: str, stdout: object = subprocess.PIPE, **environment: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-P", "-m", "parplan.experiments", *words],
        cwd=folder,
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
        timeout=60,
        check=False,
    )


def broken(*_: object) -> int:
    raise ZeroDivisionError("a mistake\x1b[31m of parplan")


@pytest.fixture
def fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(cli, "_run", broken)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))


@pytest.mark.usefixtures("fails")
def test_any_other_error_is_one_line_and_a_saved_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("PARPLAN_DEBUG", raising=False)
    assert cli.main(["hardware", "list"]) == 70
    said = capsys.readouterr().err
    assert said.startswith(r"parplan: internal error: ZeroDivisionError: a mistake\x1b[31m of")
    assert said.count("\n") == 1
    (report,) = tmp_path.glob("parplan-report-*.txt")
    assert str(report) in said
    assert "Traceback" in report.read_text()
    assert "arguments: ['hardware', 'list']" in report.read_text()


@pytest.mark.usefixtures("fails")
def test_the_traceback_is_shown_when_asked_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PARPLAN_DEBUG", "1")
    assert cli.main([]) == 70
    assert "Traceback (most recent call last)" in capsys.readouterr().err


def test_a_message_is_cut_and_has_no_control_characters() -> None:
    said = str(ParplanError("a\x1b[2Jb\n" + "x" * 700_000))
    assert len(said) < MOST_CHARACTERS + 100
    assert said.startswith(r"a\x1b[2Jb\nxxx")
    assert said.isprintable()


def test_figures_are_drawn_whatever_matplotlib_is_set_up_for(tmp_path: Path) -> None:
    (tmp_path / "matplotlibrc").write_text("backend: nonsense\nsavefig.dpi: abc\n")
    done = ran(tmp_path, *PLAN, "-o", "out", MPLBACKEND="module://not_installed")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "gantt.png").stat().st_size > 1000


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_full_disk_on_standard_output_is_said(tmp_path: Path) -> None:
    with Path("/dev/full").open("w") as full:
        done = ran(tmp_path, "hardware", "list", stdout=full)
    assert done.returncode == 2
    assert done.stderr == "parplan: error: standard output: cannot be written: " + (
        "No space left on device\n"
    )


def test_names_reach_the_terminal_with_escapes(tmp_path: Path) -> None:
    done = ran(tmp_path, *PLAN, "-o", "out\x1b[31mred")
    assert done.returncode == 0, done.stderr
    assert "\x1b" not in done.stdout + done.stderr
    assert r"out\x1b[31mred" in done.stderr


def test_workers_import_no_modules_of_the_current_folder(tmp_path: Path) -> None:
    for name in ("random", "torch", "numpy", "json"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('of the current folder')\n")
    program = (
        "from parplan.planners.search.workers import WorkerPool\n"
        "if __name__ == '__main__':\n"
        "    with WorkerPool(2, here_s=0) as spread:\n"
        "        print(list(spread.in_order(abs, [-1, -2])))\n"
    )
    script = tmp_path / "sub" / "main.py"
    script.parent.mkdir()
    script.write_text(program)
    done = subprocess.run(
        [sys.executable, str(script)], cwd=tmp_path, capture_output=True, text=True, timeout=60,
        check=False,
    )  # fmt: skip
    assert done.stdout == "[1, 2]\n", done.stderr


@pytest.mark.parametrize("word", ["nan", "inf", "-inf", "1e400", "1" * 5000, "0x10", "1_000\x00"])
@pytest.mark.parametrize("option", ["--tokens", "--memory-ratio", "--seq-len", "--seed"])
def test_a_number_is_finite_and_of_a_size_that_makes_sense(
    option: str, word: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main([*PLAN, f"{option}={word}", "-o", str(tmp_path)])
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert option in said
    assert said.count("\n") == 1
    assert len(said) < 400


@pytest.mark.parametrize(
    "words",
    [("--workers", "1000000"), ("--seed", "-1"), ("--tokens", "1e30"), ("--noise", "1e9")],
)
def test_absurd_sizes_are_refused_before_anything_is_done(
    words: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main([*PLAN, *words, "-o", str(tmp_path / "out")]) == 2
    assert f"{words[0]}: must be at " in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_stream_that_was_closed_is_flushed_without_a_word() -> None:
    out = io.StringIO()
    with contextlib.redirect_stderr(out), clean_output():
        stream = sys.stderr
    out.close()
    stream.flush()  # As `logging` does when Python ends.
    with pytest.raises(ParplanError, match="standard error: cannot be written"):
        stream.write("lost")
