"""Output folders: whole files, manifests, refusals up front."""

import json
import os
from pathlib import Path

import pytest

from parplan._files import write_whole
from parplan.errors import ParplanError
from parplan.experiments.output.folder import OutputFolder


def test_a_failed_write_leaves_the_good_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "result.json"
    write_whole(path, b"good")

    def full_disk(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full_disk)
    with pytest.raises(ParplanError, match=r"result.json: cannot be written: No space left"):
        write_whole(path, b"new")
    assert path.read_bytes() == b"good"
    assert [p.name for p in tmp_path.iterdir()] == ["result.json"]


def test_a_folder_that_cannot_be_made_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ParplanError, match="cannot be written to"):
        OutputFolder(tmp_path / "file" / "results", [])


def test_the_manifest_says_how_the_results_were_made(tmp_path: Path) -> None:
    output = OutputFolder(tmp_path / "results", ["plan", "llama2-13b"])
    output.write_csv("rows.csv", [{"a": 1, "b": "x,y"}, {"a": 2, "b": ""}])
    output.write_manifest({"seq_len": 1024}, seed=7)
    assert (output.path / "rows.csv").read_text() == 'a,b\n1,"x,y"\n2,\n'
    manifest = json.loads((output.path / "manifest.json").read_text())
    assert manifest["arguments"] == ["plan", "llama2-13b"]
    assert manifest["inputs"] == {"seq_len": 1024}
    assert manifest["seed"] == 7
    assert manifest["files"] == ["rows.csv"]
    assert manifest["packages"]["numpy"]
    assert manifest["seconds"] >= 0
    assert len(manifest["presets_sha256"]["sim/models/models.toml"]) == 64
