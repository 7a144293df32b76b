"""`--json`, `-q`, `-v` and `--no-color` of every command."""

import argparse
import json
from pathlib import Path

import pytest

from parplan.experiments.cli import COMMANDS, main, make_parser
from parplan.experiments.help import every_parser
from parplan.experiments.with_voice import STREAMING, csv_data

LANDSCAPE = (
    *("landscape", "llama3-8b", "--cluster", "8xh100", "--seq-len", "4k", "--global-batch", "32"),
    *("--x", "tp=1,2", "--y", "mbs=1,2", "--no-pictures"),
)


def parsers_of(command: str) -> list[argparse.ArgumentParser]:
    commands = next(
        action
        for action in make_parser(command)._actions
        if isinstance(action, argparse._SubParsersAction)
    )
    return list(every_parser(commands.choices[command]))


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_and_action_has_them(command: str) -> None:
    for parser in parsers_of(command):
        words = set(parser._option_string_actions)
        assert {"--quiet", "--verbose", "--no-color"} <= words
        assert ("--json" in words) == (command not in STREAMING)


def test_a_folder_is_printed_as_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert main([*LANDSCAPE, "-o", str(out), "--json"]) == 0
    said, notes = capsys.readouterr()
    document = json.loads(said)
    assert notes == ""
    assert document["schema"] == "parplan.command/1"
    assert (document["command"], document["exit_code"]) == ("landscape", 0)
    assert document["folder"] == str(out)
    rows = document["data"]["landscape.csv"]
    assert [(row["tensor_parallel"], row["batch_per_device"]) for row in rows] == [
        *((1, 1), (1, 2), (2, 1), (2, 2)),
    ]
    assert all(isinstance(row["step-time"], float) for row in rows)
    inputs = json.loads((out / "manifest.json").read_text())["inputs"]
    assert not [name for name in inputs if "voice" in name]

    assert main([*LANDSCAPE, "-o", str(out), "-q"]) == 0
    assert main([*LANDSCAPE, "-o", str(out)]) == 0
    assert "finished" in capsys.readouterr().err, "the same work, however it is printed"


def test_tables_without_a_folder_are_data_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["hardware", "list", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    clusters, accelerators = document["tables"]
    assert accelerators[0][0] == "name"
    assert "h100-sxm" in [row[0] for row in accelerators]
    assert any("dgx-h100" in name for name, _ in clusters)
    assert document["folder"] is None


def test_quiet_holds_notes_until_something_fails(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main([*LANDSCAPE, "-o", str(out), "-q"]) == 0
    said, notes = capsys.readouterr()
    assert said.startswith("best step time")
    assert notes == ""
    assert main([*LANDSCAPE, "-o", str(tmp_path / "other"), "-q", "--metric", "nix"]) == 2
    assert "unknown metric 'nix'" in capsys.readouterr().err


def test_verbose_says_time_memory_and_versions(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "-v"]) == 0
    (line,) = capsys.readouterr().err.splitlines()
    assert "s of processor time" in line
    assert "MB of memory; parplan" in line


def test_cells_are_numbers_words_or_nothing() -> None:
    text = "a,b,c,d,e,f\n1,0.5,,True,inf,1e400\n00,1_0,x y,-3,1e-3,nan\n"
    first, second = csv_data(text)
    assert first == {"a": 1, "b": 0.5, "c": None, "d": True, "e": "inf", "f": "1e400"}
    assert second == {"a": 0, "b": "1_0", "c": "x y", "d": -3, "e": 0.001, "f": "nan"}
    assert csv_data("0F0,0B0\n1F0\n") == [["0F0", "0B0"], ["1F0"]]
    assert csv_data("") == []
