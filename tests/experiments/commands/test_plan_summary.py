"""The summary of `parplan plan`: in words, as data, quiet, and with AP's log beside it."""

import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from parplan.experiments.cli import main
from parplan.experiments.output.terminal import FILLS, PLAIN_FILLS, WIDTH, Style
from parplan.experiments.planning.summary_text import summary_lines
from parplan.planners.explain.plan_words import plan_parts, plan_words, words_that_differ
from parplan.sim.plan import Plan

ROOT = Path(__file__).parents[3]
JOB = ("plan", "llama3-8b", "--cluster", "8xh100", "--seq-len", "4096", "--global-batch", "32")
FULL = (*JOB, "--space", "full")


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("summary")
    assert main([*FULL, "--tokens", "1T", "--price-per-hour", "2", "-o", str(folder / "out")]) == 0
    found: dict[str, Any] = json.loads((folder / "out" / "summary.json").read_text())
    return found


def run(capsys: pytest.CaptureFixture[str], folder: Path, *words: str) -> tuple[str, str]:
    assert main([*words, "-o", str(folder / "out")]) == 0
    out, err = capsys.readouterr()
    return out, err


def test_a_plan_is_said_in_the_words_of_an_engineer() -> None:
    plan = Plan(data_parallel=32, num_micro_batches=16, zero_stage=2)
    words = "DP 32 · TP 1 · PP 1 · ZeRO-2 · 16 micro-batches of 1 · no recomputation"
    assert plan_words(plan) == words
    other = Plan(
        data_parallel=2,
        num_stages=4,
        tensor_parallel=4,
        sequence_parallel=True,
        schedule="interleaved-1f1b",
        virtual_stages=2,
        num_micro_batches=8,
        batch_per_device=2,
        recomputation="full",
        stage_layers=(3, 4, 4, 4, 4, 4, 4, 5),
        offload_optimizer=True,
    )
    assert plan_words(other) == (
        "DP 2 · TP 4 with SP · PP 4 · interleaved-1f1b x 2 · no ZeRO · 8 micro-batches of 2 · "
        "full recomputation · layers 3 4x6 5 · optimizer in host memory"
    )
    assert words_that_differ(plan, Plan(data_parallel=32, num_micro_batches=16)) == "no ZeRO"


@pytest.mark.parametrize(
    "change",
    [
        {"data_parallel": 4},
        {"tensor_parallel": 8},
        {"context_parallel": 2},
        {"expert_parallel": 2},
        {"expert_tensor_parallel": 1},
        {"num_stages": 4},
        {"num_stages": 2, "schedule": "gpipe"},
        {"num_micro_batches": 3},
        {"batch_per_device": 3},
        {"recomputation": "full"},
        {"recomputation": "selective", "recomputed_ops": ("mlp",)},
        {"recomputation": "full", "recomputed_layers": 3},
        {"recomputation": "full", "recomputed_of_stages": (3, 2)},
        {"zero_stage": 3},
        {"zero_stage": 1, "shard_group": 2},
        {"gradient_dtype": "fp32"},
        {"overlap_gradient_reduction": False},
        {"overlap_parameter_gather": True},
        {"overlap_tensor_parallel": True},
        {"offload_optimizer": True},
        {"offload_activations": True},
        {"stage_layers": (1, 2)},
    ],
)
def test_every_field_that_differs_is_said(change: dict[str, Any]) -> None:
    base = Plan(data_parallel=8, tensor_parallel=2, num_stages=2)
    other = Plan(**{"data_parallel": 8, "tensor_parallel": 2, "num_stages": 2, **change})
    assert plan_words(base) != plan_words(other)
    assert plan_parts(base) != plan_parts(other)


def test_the_first_line_is_the_plan_and_the_bar_sums_to_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    out, err = run(capsys, tmp_path, *FULL)
    lines = out.splitlines()
    assert re.fullmatch(r"DP \d+ · TP .* · \d+ micro-batch(es)? of \d+ · .*", lines[0])
    named = {line.split()[0]: line for line in lines[2:11] if not line.startswith(" ")}
    assert {"job", "step", "speed", "memory", "time", "binds", "search", "close"} <= {*named}
    assert sum(named["time"].count(fill) for fill in FILLS) == WIDTH
    shares = [float(share) for share in re.findall(r"([0-9.]+)%", lines[7])]
    assert sum(shares) == pytest.approx(100, abs=0.3)
    assert "[info]" not in out
    assert "parplan: results: " in err
    assert not list(tmp_path.glob("*.dump"))


def test_the_numbers_are_those_of_the_plan(table: dict[str, Any]) -> None:
    predicted, memory, job = table["predicted"], table["memory"], table["job"]
    assert job["tokens_per_step"] == 4096 * 32
    assert predicted["tokens_per_s"] == pytest.approx(job["tokens_per_step"] / predicted["step_s"])
    assert predicted["tokens_per_s_per_accelerator"] * 8 == pytest.approx(predicted["tokens_per_s"])
    assert predicted["interval"]["low_s"] < predicted["interval"]["high_s"]
    assert memory["share"] == memory["peak_bytes"] / memory["device_bytes"]
    assert memory["limit_bytes"] == pytest.approx(memory["limit_share"] * memory["device_bytes"])
    assert sum(part["seconds"] for part in table["time"]) == pytest.approx(predicted["step_s"])
    assert Plan.from_json(table["plan"]).num_devices == 8


def test_every_percentage_of_the_memory_is_of_the_device(table: dict[str, Any]) -> None:
    line = next(line for line in summary_lines(table, Style()) if line.startswith("memory"))
    used, device, share, limit, most = map(float, re.findall(r"([0-9.]+)(?= of | GB|%)", line))
    assert round(100 * used / device) == share
    assert round(100 * limit / device) == most


def test_alternatives_have_a_pace_and_a_reason(table: dict[str, Any]) -> None:
    assert len(table["alternatives"]) == 3
    for one in table["alternatives"]:
        assert one["reason"]
        assert one["text"] != table["text"]
        step_s = table["predicted"]["step_s"]
        assert one["step_s"] == pytest.approx((1 + one["extra_share"]) * step_s)
        if not one["fits"]:
            assert one["peak_bytes"] > table["memory"]["limit_bytes"]
            assert one["extra_share"] < 0
    fitting = [one["step_s"] for one in table["alternatives"] if one["fits"]]
    assert fitting == sorted(fitting)


def test_days_and_money_follow_from_tokens_and_price(table: dict[str, Any]) -> None:
    bill, predicted = table["training"], table["predicted"]
    assert bill["training_s"] == pytest.approx(1e12 / predicted["tokens_per_s"], rel=1e-4)
    assert bill["accelerator_hours"] == pytest.approx(8 * bill["training_s"] / 3600)
    assert bill["cost"] == pytest.approx(2 * bill["accelerator_hours"])
    assert bill["cost_per_1e9_tokens"] == pytest.approx(bill["cost"] / 1000)
    (line,) = (line for line in summary_lines(table, Style()) if line.startswith("training"))
    assert f"{bill['cost']:,.0f} USD" in line
    assert f"{bill['training_s'] / 86400:,.1f} days" in line


def test_json_is_all_that_is_printed_and_what_the_folder_has(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], table: dict[str, Any]
) -> None:
    out, err = run(capsys, tmp_path, *FULL, "--json")
    printed = json.loads(out)
    assert err == ""
    kept = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert {name: printed[name] for name in kept} == kept
    assert printed.keys() - kept.keys() == {"folder", "files"}
    assert kept.keys() == table.keys()


def test_every_key_is_documented_and_every_documented_key_is_there(table: dict[str, Any]) -> None:
    page = (ROOT / "docs" / "summary.md").read_text(encoding="utf-8")
    page = page.partition("### Of other commands")[0]
    documented = set(re.findall(r"^\| `([a-z0-9_.\[\]]+)` \|", page, flags=re.MULTILINE))
    found = {*_keys("", table), "folder", "files[]", "closest", "ways_to_fit[]"}
    fields = ("plan.", "alternatives[].plan.")
    found = {key for key in found if not key.startswith(fields)} | {"alternatives[].plan"}
    assert found == documented


def _keys(prefix: str, value: Any) -> set[str]:
    if isinstance(value, dict):
        return set().union(*(_keys(f"{prefix}.{k}" if prefix else k, v) for k, v in value.items()))
    if isinstance(value, list):
        return set().union(
            {f"{prefix}[]"} if not value else set(), *(_keys(f"{prefix}[]", item) for item in value)
        )
    return {prefix}


def test_quiet_is_the_plan_and_its_step(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], table: dict[str, Any]
) -> None:
    out, err = run(capsys, tmp_path, *FULL, "-q")
    assert err == ""
    first, second = out.splitlines()
    assert first == table["text"]
    assert second.startswith(f"{table['predicted']['step_s']:.3f} s (")


def test_aps_log_comes_with_its_space_or_when_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for options in (("--space", "ap"), ("--space", "full", "--ap-log")):
        out, err = run(capsys, tmp_path, *JOB, *options)
        assert all(line.startswith("[info] ") for line in out.splitlines())
        assert "\nDP " in f"\n{err}"
        (dump,) = tmp_path.glob("*.dump")
        assert f"[info] {dump.read_text()}" in out
        dump.unlink()
    out, _ = run(capsys, tmp_path, *JOB, "--space", "ap", "--json")
    assert json.loads(out)["search"]["planner"] == "exhaustive"
    assert list(tmp_path.glob("*.dump"))


def test_nothing_that_fits_is_data_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [*FULL, "--json", "--memory-ratio", "5", "-o", str(tmp_path / "out")]
    assert main(words) == 1
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert err == ""
    assert found["plan"] is None
    assert "GB" in found["closest"]["reason"]
    assert found["search"]["fitting"] == 0


def test_colours_are_for_terminals_alone(table: dict[str, Any]) -> None:
    plain = "\n".join(summary_lines(table, Style()))
    coloured = "\n".join(summary_lines(table, Style(colour=True)))
    assert "\x1b" not in plain
    assert re.sub(r"\x1b\[\d+m", "", coloured) == plain
    ascii_lines = "\n".join(summary_lines(table, Style(fills=PLAIN_FILLS)))
    assert not set(ascii_lines) & set(FILLS)


def test_a_terminal_gets_colours(tmp_path: Path) -> None:
    job = ("plan", "gpt-tiny", "--cluster", "2xh100", "--seq-len", "64", "--global-batch", "8")
    words = [sys.executable, "-m", "parplan.experiments", *job, "--space", "full"]
    environment = {k: v for k, v in os.environ.items() if k != "NO_COLOR"}
    for extra, coloured in (((), True), (("--no-color",), False)):
        leader, follower = pty.openpty()
        try:
            done = subprocess.run(
                [*words, *extra],
                cwd=tmp_path,
                stdout=follower,
                stderr=subprocess.PIPE,
                env={**environment, "TERM": "xterm"},
                timeout=120,
                check=False,
            )
            assert done.returncode == 0, done.stderr
            shown = os.read(leader, 1 << 16).decode()
        finally:
            os.close(leader)
            os.close(follower)
        assert ("\x1b[1mDP " in shown) == coloured
        assert ("\x1b" in shown) == coloured
