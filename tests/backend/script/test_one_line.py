"""The one line in ordinary scripts: as real processes (one_line_worker.py)."""

import csv
import json
import os
import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

from parplan.backend.execution.result import Execution
from parplan.sim.plan import Plan, zero_fields
from tests.commands import parplan
from tests.torchrun import torchrun

TOLERANCE = 1e-9
"""Relative, in float64, as in test_pipeline_parity.py."""

PLANS = {
    "dp2": {"data_parallel": 2, "num_micro_batches": 2, "batch_per_device": 4},
    "pp2": {"num_stages": 2, "num_micro_batches": 4, "batch_per_device": 4},
}

SHARDED = {f"dp2 zero{stage}": {**PLANS["dp2"], **zero_fields(stage)} for stage in (2, 3)}
"""Planned by an example; the optimizer is made after the line."""

LOOPS = ("usual", "accumulating", "zeroing_after_forward", "evaluating", "smaller_last_batch")


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    worker = Path(__file__).with_name("one_line_worker.py")
    done = torchrun(2, worker, json.dumps(PLANS | SHARDED), cwd=tmp_path_factory.mktemp("worker"))
    lines = defaultdict(list)
    for line in map(json.loads, done.stdout.splitlines()):
        lines[line["plan"], line["loop"]].append(line)
    return lines


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("loop", LOOPS)
def test_usual_loops_train_as_without_the_line(found, plan, loop):
    lines = found[plan, loop]
    assert len(lines) == 4  # two processes, optimizer made before and after
    for line in lines:
        assert line["loss"] < TOLERANCE
        assert line["weight"] < TOLERANCE


@pytest.mark.parametrize("plan", SHARDED)
@pytest.mark.parametrize("loop", LOOPS)
def test_usual_loops_train_sharded_parameters(found, plan, loop):
    lines = found[plan, loop]
    assert len(lines) == 2
    for line in lines:
        assert line["loss"] < TOLERANCE
        assert line["weight"] < TOLERANCE
        assert line["names"] == line["all_names"]


def test_a_search_shards_parameters_where_it_is_asked_to(found):
    """By the arguments of Advanced Parallelization alone, without a plan or a profile."""
    lines = found["asked", "usual"]
    assert len(lines) == 2
    for line in lines:
        assert line["loss"] < TOLERANCE
        assert line["weight"] < TOLERANCE
        assert line["names"] == line["all_names"]


def test_each_process_of_a_pipeline_tells_the_whole_state(found):
    for line in found["pp2", "usual"]:
        assert line["names"] == line["all_names"]


@pytest.mark.parametrize("plan", PLANS)
def test_different_batches_are_refused_everywhere(found, plan):
    texts = [line["text"] for line in found[plan, "error"]]
    assert len(texts) == 2
    assert all("process 1 was given another batch than process 0" in text for text in texts)


PAGE = Path(__file__).parents[3] / "docs" / "one-line.md"


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    """The page's script in a folder of its own, with and without the line."""
    folder = tmp_path_factory.mktemp("script")
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
    plain = "".join(
        line for line in code.splitlines(keepends=True) if "enable_advanced" not in line
    )
    assert len(plain.splitlines()) == len(code.splitlines()) - 2  # the line and its import
    (folder / "train.py").write_text(code)
    (folder / "plain.py").write_text(plain)
    return folder


def losses(text):
    # Both processes print; their lines may run into each other.
    return re.findall(r"step \d: loss (\d+\.\d{4})", text)


def test_the_pages_script_plans_logs_and_trains_as_without_its_line(script):
    done = torchrun(2, "train.py", cwd=script)
    command = [sys.executable, "plain.py"]
    plain = subprocess.run(command, cwd=script, capture_output=True, text=True, check=True)
    expected = losses(plain.stdout)
    assert len(expected) == 5
    assert sorted(losses(done.stdout)) == sorted(2 * expected)
    log = [line for line in done.stderr.splitlines() if line.startswith("[info] ")]
    dump = (script / "advanced_parallelization_selected_config.dump").read_text()
    patterns = [
        r"Got DBs from backend for auto config\.",
        r"The number of candidates is [1-9]\d*\.",
        r"Parallel Graph Compile start\.\.\.",
        r"Elapsed Time to compile all candidates = \d+ \[ms\]",
        r"Parallel Graph Compile finished\.",
        r"The number of possible candidates is [1-9]\d*\.",
        r"SelectBestGraphFromCandidates start\.\.\.",
        r"Elapsed Time to compute cost for survived candidates = \d+ \[ms\]",
        r"SelectBestGraphFromCandidates finished\.",
        r"Configuration for parallelism is selected\.",
        re.escape(dump.rstrip("\n")),
        r"train: true",
        r"plan: .*micro-batch.*",
        r"predicted: 0\.\d{4} s a step, .* on the fullest process; speed .*",
    ]
    assert len(log) == len(patterns)
    for line, pattern in zip(log, patterns, strict=True):
        assert re.fullmatch(rf"\[info\] {pattern}", line), line


@pytest.mark.long
def test_ten_steps_are_compared_with_their_prediction(script, tmp_path):
    longer = (script / "train.py").read_text().replace("range(5)", "range(14)")
    (tmp_path / "train.py").write_text(longer)
    done = torchrun(2, "train.py", cwd=tmp_path)
    (said,) = re.findall(r"\[info\] measured: (.*)", done.stderr)
    number = r"(-?[\d.]+)"
    pattern = rf"{number} s a step.*predicted {number} s, error \+?{number}%"
    step_s, predicted_s, error = map(float, re.search(pattern, said).groups())
    assert error == pytest.approx(100 * (predicted_s / step_s - 1), abs=1.0)
    folder = tmp_path / "parplan-run"
    with (folder / "executed.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert float(row["measured_s"]) == pytest.approx(step_s, abs=1e-4)
    assert len(row["samples_s"].split()) == 10
    plan = Plan.from_json(json.loads((folder / "plan.json").read_text()))
    assert plan.num_devices == 2
    (executed,) = Execution.from_json(json.loads((folder / "execution.json").read_text())).executed
    actions = sum(event.stream == "compute" for event in executed.measured.events)
    # Forwards and backwards of every stage, and the optimizer of each.
    assert actions == plan.num_stages * (2 * plan.num_micro_batches + 1)
    compared = parplan("compare", "parplan-run", "-o", "compared", cwd=tmp_path)
    assert compared.returncode == 0, compared.stderr
    assert "peak memory: not measured" in compared.stdout


@pytest.mark.long
def test_the_switch_turns_the_line_off(script):
    done = subprocess.run(
        [sys.executable, "train.py"],
        cwd=script,
        env={**os.environ, "PARPLAN_ENABLE_ADVANCED_PARALLELIZATION": "0"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert len(losses(done.stdout)) == 5
    assert "[info]" not in done.stderr
