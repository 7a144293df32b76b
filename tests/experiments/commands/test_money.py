"""`--tokens`, `--price-per-hour` and `--currency` in every command that predicts."""

import csv
import re
from pathlib import Path

import pytest

from parplan.experiments.cli import main

JOB = ("llama2-7b", "--seq-len", "1k", "--global-batch", "16")
MONEY = ("--tokens", "2T", "--price-per-hour", "3", "--currency", "EUR")
SCRIPT = """torchrun pretrain_gpt.py --tensor-model-parallel-size 2 --num-layers 8
--hidden-size 1024 --num-attention-heads 16 --seq-length 1024
--max-position-embeddings 1024 --micro-batch-size 1
--global-batch-size 16 --vocab-size 32000 --bf16
"""


def said(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(list(words)) == 0
    return capsys.readouterr().out


def numbers(line: str) -> tuple[float, float, float, float]:
    """Days, device-hours, cost and cost of 10^9 tokens of a line."""
    found = re.search(
        r"([\d,.]+) days, ([\d,]+) device-hours, ([\d,]+) EUR, ([\d,.]+) EUR per 10\^9", line
    )
    assert found, line
    days, hours, cost, each = (float(text.replace(",", "")) for text in found.groups())
    return days, hours, cost, each


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_plan_and_simulate_say_the_same(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = ("plan", *JOB, "--cluster", "8xh100", "--space", "full")
    (line,) = (text for text in said(capsys, *plan, *MONEY).splitlines() if "training" in text)
    days, hours, cost, each = numbers(line)
    assert hours == pytest.approx(24 * 8 * days, rel=1e-3)
    assert cost == pytest.approx(3 * hours, rel=1e-6, abs=3)
    assert each == pytest.approx(cost / 2000, rel=1e-3)
    out = said(capsys, "simulate", "out/plan/plan.json", *MONEY)
    (other,) = (text for text in out.splitlines() if text.startswith("training: "))
    assert numbers(other) == pytest.approx((days, hours, cost, each), rel=1e-4)


def test_a_price_alone_says_the_cost_of_tokens(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = said(capsys, "plan", *JOB, "--cluster", "8xh100", "--space", "full", *MONEY[2:])
    (line,) = (text for text in out.splitlines() if text.startswith("training"))
    assert re.fullmatch(r"training +[\d.,]+ EUR per 10\^9 tokens", line)
    assert "training" not in said(
        capsys, "plan", *JOB, "--cluster", "8xh100", "--space", "full", "-o", "again"
    )


def test_import_compares_both_plans(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("launch.sh").write_text(SCRIPT.replace("\n", " ") + "\n")
    out = said(capsys, "import", "launch.sh", "--from", "megatron", "--cluster", "8xh100", *MONEY)
    lines = [text for text in out.splitlines() if text.startswith("training with the ")]
    present, fastest = map(numbers, lines)
    assert fastest[2] < present[2]


def test_scale_says_it_for_every_size(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("scale", *JOB, "--cluster", "h100", "--sizes", "4,8", "--scaling", "strong")
    out = said(capsys, *words, *MONEY)
    lines = [text for text in out.splitlines() if text.startswith("training, strong")]
    assert len(lines) == 2
    with open("out/scale/scaling.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    for line, row in zip(lines, rows, strict=True):
        days, hours, _, _ = numbers(line)
        assert float(row["training_s"]) / 86400 == pytest.approx(days, abs=0.06)
        assert float(row["accelerator_hours"]) == pytest.approx(hours, abs=1)
        assert row["currency"] == "EUR"


def test_landscape_says_it_of_the_best_cell(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("landscape", *JOB, "--cluster", "8xh100", "--x", "tp=1,2", "--metric", "cost")
    out = said(capsys, *words, *MONEY)
    (line,) = (text for text in out.splitlines() if text.startswith("training there: "))
    with open("out/landscape/landscape.csv", newline="") as file:
        costs = [float(row["cost"]) for row in csv.DictReader(file)]
    assert numbers(line)[2] == pytest.approx(min(costs), rel=1e-3)


@pytest.mark.parametrize(("option", "value"), [("--tokens", "-1"), ("--price-per-hour", "0")])
def test_what_is_not_positive_is_refused(
    option: str, value: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["plan", *JOB, "--cluster", "8xh100", "--space", "full", option, value]
    assert main(words) == 2
    assert "must be above 0" in capsys.readouterr().err
