"""What the log of a training script says of its plan, its steps and their drift."""

from pathlib import Path

import pytest
import torch
from torch import nn

from parplan.backend import enable_advanced_parallelization
from parplan.backend.models.flops import Counted, peak_flop_per_s
from parplan.backend.script import differences as said
from parplan.backend.script.differences import differences, load_note, shared_cores
from parplan.backend.script.run_record import (
    DRIFT,
    STEPS,
    WARM_UP,
    WINDOW,
    Drift,
    report_folder,
)
from parplan.backend.script.throughput import Throughput, every_from_environment
from parplan.backend.script.words import bytes_in_words, plan_in_words
from parplan.errors import ParplanError
from parplan.experiments.commands.run.compare import RECORDED_STEPS
from parplan.sim.plan import Plan, zero_fields
from tests.commands import parplan

HERE = Path("here")


class Products(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Linear(8, 2))

    def forward(self, x):
        return self.layers(x)


def test_operations_of_a_step_are_those_of_its_products() -> None:
    found = Counted()
    found.row(Products(), Products(), torch.zeros(1, 4))
    assert found.each == 3 * 2 * (4 * 8 + 8 * 2) / 4


@pytest.mark.parametrize(
    ("name", "peak"),
    [("NVIDIA H100 80GB HBM3", 989.4e12), ("NVIDIA A100-SXM4-80GB", 312e12), ("Another", None)],
)
def test_peaks_of_gpus_by_their_names(monkeypatch, name, peak) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
    assert peak_flop_per_s(torch.device("cuda")) == (peak and pytest.approx(peak, rel=1e-3))
    assert peak_flop_per_s(torch.device("cpu")) is None


def test_a_plan_in_words() -> None:
    plan = Plan(
        num_stages=2,
        virtual_stages=2,
        schedule="interleaved-1f1b",
        data_parallel=3,
        num_micro_batches=4,
        batch_per_device=1,
        recomputation="full",
        **zero_fields(2),
    )
    assert plan_in_words(plan) == (
        "data parallelism over 3 replicas, ZeRO-2, a pipeline of 4 stages (interleaved-1f1b, 2 on "
        "each process), 4 micro-batches of 1 row, full recomputation"
    )
    assert plan_in_words(Plan(batch_per_device=8)) == "no parallelism, one micro-batch of 8 rows"


def test_bytes_in_words() -> None:
    assert bytes_in_words(2.5e6) == "2.5 MB"
    assert bytes_in_words(2.5e9) == "2.5 GB"


@pytest.mark.parametrize(
    ("environment", "folder"),
    [
        ({}, HERE / "parplan-run"),
        ({"PARPLAN_REPORT": "x"}, HERE / "x"),
        ({"PARPLAN_REPORT": "0"}, None),
    ],
)
def test_where_the_report_goes(environment, folder) -> None:
    assert report_folder(environment, HERE) == folder


def test_tokens_per_second_every_so_many_steps() -> None:
    found = Throughput(3, torch.device("cpu"))
    tokens = found.items_of(torch.zeros(4, 50, dtype=torch.int64))
    said = [found.step(end_s, tokens) for end_s in (0.0, 2.0, 2.5, 3.0, 3.5, 4.0)]
    assert said == [
        "",
        "",
        "step 3: 1.2500 s, 160 tokens/s",
        *("", ""),
        "step 6: 0.5000 s, 400 tokens/s",
    ]
    assert found.rate(found.items_of(torch.zeros(4, 50)), 0.001) == "4,000 rows/s"
    counted = Throughput(0, torch.device("cpu"), 6e9, 2)
    tokens = counted.items_of(torch.zeros(4, 50, dtype=torch.int64))
    assert counted.rate(tokens, 0.5) == "400 tokens/s, 1.2 TFLOP/s a process"
    silent = Throughput(0, torch.device("cpu"))
    assert not any(silent.step(float(number), 1) for number in range(9))


def test_steps_between_lines_are_a_number(monkeypatch) -> None:
    monkeypatch.setenv("PARPLAN_LOG_STEPS", "often")
    with pytest.raises(ParplanError, match="expected a number of steps, 0 for no lines, got 'oft"):
        every_from_environment()


def drift(step_s, **parts):
    """What is said when steps of 1 s, of which the parts take 0.3 s each, become those."""
    found = Drift()
    names = ("waiting for another process, which is slow", "computing and sending", "the optimizer")
    for _ in range(WARM_UP + 10):
        found.learn(1.0, dict.fromkeys(names, 0.3))
    now = {name: parts.get(name.split()[0], 0.3) for name in names}
    return [found.of(step_s, now) for _ in range(2 * WINDOW)]


def test_steps_that_stay_as_they_are_say_nothing() -> None:
    assert not any(drift(DRIFT - 0.01))


@pytest.mark.parametrize(
    ("step_s", "parts", "text"),
    [
        (
            2.0,
            {"computing": 1.3},
            "2.0 times the 1.0000 s before, most of it computing and sending",
        ),
        (1.0, {"waiting": 2.3}, "3.0 times the 1.0000 s before, most of it waiting for another"),
    ],
)
def test_drift_is_said_once_with_the_part_that_grew(step_s, parts, text) -> None:
    found = drift(step_s, **parts)
    assert [bool(line) for line in found].index(True) == WINDOW - 1
    assert sum(map(bool, found)) == 1
    assert text in found[WINDOW - 1]


def test_what_differs_is_said() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Dropout(0.1))
    plan = Plan(data_parallel=2, num_micro_batches=2, batch_per_device=3)
    lines = list(differences(model, plan, 12))
    assert len(lines) == 2
    assert lines[0].startswith(
        "BatchNorm: its statistics are those of 3 rows, one micro-batch, not"
    )
    assert lines[1].startswith("Dropout: ")
    model[0].register_forward_hook(lambda *_: None)
    assert (
        "hooks of modules run for each of 4 micro-batches" in list(differences(model, plan, 12))[2]
    )
    assert not list(differences(model, Plan(batch_per_device=12), 12))


def test_processes_that_share_cores_are_told(monkeypatch) -> None:
    monkeypatch.setattr(said, "num_cores", lambda: 2)
    assert not list(shared_cores(2, on_gpu=False))
    assert not list(shared_cores(4, on_gpu=True))
    (text,) = shared_cores(4, on_gpu=False)
    assert text.startswith("4 processes share 2 cores")
    monkeypatch.setattr(said.os, "getloadavg", lambda: (6.0, 0, 0))
    assert load_note(2) == "; other programs ran meanwhile (load 6.0 on 2 cores)"
    assert load_note(8) == ""


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))

    def forward(self, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return nn.functional.mse_loss(self.layers(inputs), targets)


def test_a_report_that_cannot_be_written_ends_nothing(tmp_path, monkeypatch, caplog) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "parplan-run").write_text("in the way")
    with caplog.at_level("INFO", "parplan"):
        train_by_a_given_plan(WARM_UP + STEPS + 2)
    assert sum("no report in" in text for text in caplog.messages) == 1
    assert sum(text.startswith("measured: ") for text in caplog.messages) == 1


def train_by_a_given_plan(steps: int) -> None:
    plan = Plan(num_micro_batches=2, batch_per_device=2)
    model = enable_advanced_parallelization(Net(), plan=plan)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(steps):
        model(torch.ones(4, 2), torch.zeros(4, 2)).backward()
        optimizer.step()
        optimizer.zero_grad()


@pytest.mark.parametrize(
    ("steps", "left"),
    [(1, {"plan.json"}), (WARM_UP + STEPS + 1, {"plan.json", "executed.csv", "timeline.json"})],
)
def test_what_an_earlier_run_measured_is_removed(steps, left, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "parplan-run"
    folder.mkdir()
    for name in ("plan.json", "execution.json", "executed.csv", "timeline.json", "notes.txt"):
        (folder / name).write_text("earlier")
    train_by_a_given_plan(steps)
    assert {path.name for path in folder.iterdir()} == {*left, "notes.txt"}
    assert [path.name for path in folder.iterdir() if path.read_text() == "earlier"] == [
        "notes.txt"
    ]


def test_comparing_a_run_without_a_prediction_says_what_is_missing(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    train_by_a_given_plan(1)
    assert RECORDED_STEPS == WARM_UP + STEPS
    done = parplan("compare", "parplan-run", cwd=tmp_path)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith(
        "parplan: error: parplan-run: has a plan.json, but no execution.json to compare: "
    )
    assert f"once {WARM_UP + STEPS} steps have ended and another begins" in line
    (tmp_path / "parplan-run" / "manifest.json").write_text("{}")
    done = parplan("compare", "parplan-run", cwd=tmp_path)
    assert "parplan execute -o parplan-run makes it" in done.stderr
