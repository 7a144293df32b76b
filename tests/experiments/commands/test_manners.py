"""How the command line helps: help, version, near names, short names, completion, progress."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import parplan
from parplan.experiments.arguments.numbers import amount, count
from parplan.experiments.cli import COMMANDS, main
from parplan.experiments.output.progress import ProgressLine
from parplan.planners.spaces.constraints import constraints_of
from parplan.sim.models.model import model_preset

JOB = ("llama3-8b", "--cluster", "8xh100", "--seq-len", "4k", "--global-batch", "32")


def refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    try:
        code: object = main(words)
    except SystemExit as end:
        code = end.code
    out, err = capsys.readouterr()
    assert code == 2
    assert out == ""
    assert len(err.splitlines()) == 1
    return err


def test_alone_it_shows_help_with_examples_that_parse(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert all(f"\n    {name}" in out for name in COMMANDS)
    examples = [line.split() for line in out.splitlines() if line.startswith("  parplan ")]
    assert len(examples) >= 5
    assert {words[1] for words in examples} <= {*COMMANDS}


def test_the_version_and_the_module(tmp_path: Path) -> None:
    for words in (["-m", "parplan", "--version"], ["-m", "parplan.experiments", "--version"]):
        done = subprocess.run(
            [sys.executable, *words], cwd=tmp_path, capture_output=True, text=True, check=True
        )
        assert done.stdout == f"parplan {parplan.__version__}\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["plam"], "unknown command 'plam'; did you mean plan?"),
        (
            ["plan", *JOB, "--sequence-len", "1"],
            "unknown option --sequence-len; did you mean --seq",
        ),
        (["plan", *JOB, "--objectiv=cost"], "--objectiv"),
        (["plan", *JOB, "--attention", "flsh"], "unknown value 'flsh'; did you mean flash"),
        (["plan", *JOB, "more"], "unknown argument 'more'"),
        (["hardware", "lst"], "unknown command 'lst'; did you mean list"),
        (["plan", *JOB, "--seq-len", "8q"], "such as 8192 or 8k"),
        (["plan", *JOB, "--tokens", "many"], "such as 3e11, 300B or 1.5T"),
    ],
)
def test_what_is_nearly_right_is_told_what_is_right(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in refused(words, capsys)


def test_near_keys_of_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "space.toml").write_text("tensor_paralel = 2\n")
    words = ["plan", *JOB, "--space", str(tmp_path / "space.toml"), "-o", str(tmp_path / "out")]
    assert "did you mean tensor_parallel" in refused(words, capsys)
    (tmp_path / "model.toml").write_text("[own]\nnum_layer = 2\n")
    words[1] = str(tmp_path / "model.toml")
    assert "did you mean num_layers" in refused(words, capsys)


def test_short_names_of_fields_mean_the_long_ones() -> None:
    long = constraints_of({"tensor_parallel": 2, "num_stages": [1, 4]}, "space")
    assert constraints_of({"tp": 2, "pp": [1, 4]}, "space") == long
    with pytest.raises(parplan.ParplanError, match="tensor_parallel is given twice"):
        constraints_of({"tp": 2, "tensor_parallel": 2}, "space")
    short = {"tp": 2, "pp": 4, "dp": 2, "cp": 2, "ep": 2, "mbs": 3}
    plan = parplan.Plan(**short)
    assert plan == parplan.Plan(
        tensor_parallel=2,
        num_stages=4,
        data_parallel=2,
        context_parallel=2,
        expert_parallel=2,
        batch_per_device=3,
    )


@pytest.mark.parametrize(
    ("text", "value"),
    [("8192", 8192), ("8k", 8192), ("8K", 8192), ("1M", 2**20), ("1,024", 1024), ("0.5k", 512)],
)
def test_counts_are_in_powers_of_two(text: str, value: int) -> None:
    assert count(text) == value


@pytest.mark.parametrize(
    ("text", "value"),
    [("3e11", 3e11), ("300B", 3e11), ("1.5T", 1.5e12), ("1M", 1e6), ("2.5", 2.5), ("15 T", 15e12)],
)
def test_amounts_are_in_powers_of_ten(text: str, value: float) -> None:
    assert amount(text) == pytest.approx(value)


@pytest.mark.parametrize("text", ["", "k", "1.5", "8q", "nan", "inf", "0.3k", "1e400"])
def test_other_words_are_no_counts(text: str) -> None:
    import argparse

    with pytest.raises(argparse.ArgumentTypeError):
        count(text)


def test_models_are_listed_with_their_sizes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models"]) == 0
    rows = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    assert "8.03 B" in rows["llama3-8b"]
    assert main(["models", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    mixtral = found["mixtral-8x7b"]
    assert mixtral["num_parameters"] == model_preset("mixtral-8x7b").num_parameters
    # Mistral AI: 46.7 billion parameters, of which a token uses 12.9 billion.
    assert mixtral["num_active_parameters"] / 1e9 == pytest.approx(12.9, abs=0.05)
    assert all(one["num_active_parameters"] <= one["num_parameters"] for one in found.values())


def test_a_planner_in_the_current_folder_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "own_planner_here.py").write_text(
        "def first(space, evaluate, rng):\n    evaluate(space[0])\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    words = ["plan", *JOB, "--space", "full", "--planner", "own_planner_here:first"]
    assert main(words) in (0, 1)
    assert "own_planner_here:first: 1 evaluation" in "".join(capsys.readouterr())


def completions(line: str, folder: Path) -> list[str]:
    """What argcomplete offers for a line, by its protocol: words on descriptor 8."""
    code = "import sys; from parplan.experiments.cli import main; main(sys.argv[1:])"
    out = folder / "words"
    environment = {
        **os.environ,
        "_ARGCOMPLETE": "1",
        "_ARGCOMPLETE_STDOUT_FILENAME": str(out),
        "_ARGCOMPLETE_IFS": "\n",
        "COMP_LINE": line,
        "COMP_POINT": str(len(line)),
    }
    subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=environment, timeout=60, check=False
    )
    return [word.strip() for word in out.read_text().split("\n")]


def test_a_shell_completes_commands_options_and_names(tmp_path: Path) -> None:
    assert "plan" in completions("parplan pl", tmp_path)
    assert "--global-batch" in completions("parplan plan llama3-8b --glob", tmp_path)
    assert "llama3-70b" in completions("parplan plan llama3-7", tmp_path)
    assert "8xh100-sxm" in completions("parplan plan llama3-8b --cluster 8xh", tmp_path)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_of_a_shell(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    assert "parplan" in capsys.readouterr().out


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_gets_a_bar_and_a_file_gets_lines() -> None:
    terminal, file = Terminal(), io.StringIO()
    for stream in (terminal, file):
        progress = ProgressLine(stream, quiet_s=0.0)
        progress.every_s = 0.0
        for done in range(5):
            progress("compile", done, 4)
        progress.end()
    assert "compile" in terminal.getvalue()
    assert "4/4" in terminal.getvalue()
    assert "\x1b" not in file.getvalue()
    assert file.getvalue().splitlines()[0].startswith("parplan: compile: ")
