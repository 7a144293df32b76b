"""Precision, optimizer and software of a job: on the command line, in a file, in Python."""

import json
from pathlib import Path

import pytest

import parplan
from parplan.experiments.cli import main
from parplan.sim.plan_file import read_plan

ASKED = ("plan", "llama3-8b", "--cluster", "8xh100", "--seq-len", "2048", "--global-batch", "16")
NARROW = """
tp = [2]
pp = 1
schedule = "1f1b"
recomputation = "none"
"""


def space(folder: Path, more: str = "") -> str:
    path = folder / "space.toml"
    path.write_text(NARROW + more)
    return str(path)


def test_a_file_and_options_say_the_same_job(tmp_path: Path) -> None:
    asked = {
        "file": [
            *("--space", space(tmp_path, 'precision = "nvfp4"\noptimizer = "muon"\n')),
            *("-o", str(tmp_path / "file"), "-q"),
        ],
        "options": [
            *("--precision", "nvfp4", "--optimizer", "muon", "-q"),
            *("-o", str(tmp_path / "options")),
        ],
    }
    b300 = [a.replace("8xh100", "8xb300") for a in ASKED]
    assert main([*b300, *asked["file"]]) == 0
    assert main([*b300, "--space", space(tmp_path), *asked["options"]]) == 0
    plans = [read_plan(tmp_path / name / "plan.json") for name in asked]
    assert plans[0] == plans[1]
    assert (plans[0][1].precision, plans[0][1].optimizer) == ("fp4", "muon")


def test_software_of_a_file(tmp_path: Path) -> None:
    path = space(tmp_path, 'software = "deepspeed"\n')
    assert main([*ASKED, "--space", path, "-q", "-o", str(tmp_path / "out")]) == 0
    _, workload, _ = read_plan(tmp_path / "out" / "plan.json")
    meant = parplan.Workload("llama3-8b", seq_len=2048, global_batch=16, software="deepspeed")
    assert workload.software == meant.software


@pytest.mark.parametrize(
    ("more", "options", "said"),
    [
        ('precision = "fp7"', [], "space.toml.precision: unknown precision 'fp7'"),
        ('optimizer = "adam"', [], "did you mean adamw or "),
        ('software = "megatorn"', [], "did you mean megatron"),
        ('optimizer = ["sgd", "muon"]', [], "space.toml.optimizer: expected one name"),
        ('optimizer = "sgd"', ["--optimizer", "muon"], "--optimizer muon: "),
        ('precision = "fp8"', ["--no-mixed-precision"], "contradicts --no-mixed-precision"),
        ('optimiser = "sgd"', [], "did you mean optimizer or "),
    ],
)
def test_one_line_for_a_job_that_is_none(
    more: str, options: list[str], said: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = space(tmp_path, more)
    assert main([*ASKED, "--space", path, *options, "-o", str(tmp_path / "out")]) == 2
    _, err = capfd.readouterr()
    assert said in err
    assert err.count("\n") == 1


def test_python_has_the_same_job_or_says_that_it_differs(tmp_path: Path) -> None:
    path = space(tmp_path, 'precision = "fp8"\noptimizer = "adamw-8bit"\n')
    fields = {"seq_len": 2048, "global_batch": 16}
    job = parplan.Workload("llama3-8b", precision="fp8", optimizer="adamw-8bit", **fields)
    found = parplan.plan(job, "8xh100", space=path)
    assert main([*ASKED, "--space", path, "-q", "-o", str(tmp_path / "out")]) == 0
    written = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert found.best.step_s == written["predicted"]["step_s"]
    other = parplan.Workload("llama3-8b", **fields)
    with pytest.raises(parplan.ParplanError, match="precision is fp8, but not that of the work"):
        parplan.plan(other, "8xh100", space=path)


def test_a_plan_that_is_none_replaces_an_earlier_one(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    options = ["--space", space(tmp_path, "mbs = 1\n"), "-q", "-o", str(folder)]
    assert main([*ASKED, *options]) == 0
    assert (folder / "plan.json").exists()
    assert main([*ASKED, *options, "--memory-ratio", "1"]) == 1
    assert sorted(p.name for p in folder.iterdir() if not p.name.startswith(".")) == sorted(
        ["manifest.json", *json.loads((folder / "manifest.json").read_text())["files"]]
    )
    assert not (folder / "plan.json").exists()
    assert main([*ASKED, *options]) == 0


def test_each_optimizer_can_be_asked_for(tmp_path: Path) -> None:
    peaks = {}
    for name in ("adamw", "adamw-bf16", "adamw-8bit", "muon", "sgd"):
        folder = tmp_path / name
        one = space(tmp_path, "zero_stage = 1\nmbs = 1\nsequence_parallel = true\n")
        options = ["--optimizer", name, "--space", one, "-q", "-o", str(folder)]
        assert main([*ASKED, *options]) == 0
        found = json.loads((folder / "summary.json").read_text())
        assert found["job"]["optimizer"] == name
        peaks[name] = found["memory"]["peak_bytes"]
    assert peaks["sgd"] < peaks["adamw-8bit"] < peaks["adamw-bf16"] < peaks["adamw"]
    assert peaks["muon"] < peaks["adamw"]
