"""The one line in ordinary scripts: as real processes (one_line_worker.py), and its refusals."""

import json
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

TOLERANCE = 1e-9
"""Relative, in float64, as in test_pipeline_parity.py."""

PLANS = {
    "dp2": {"data_parallel": 2, "num_micro_batches": 2, "batch_per_device": 4},
    "pp2": {"num_stages": 2, "num_micro_batches": 4, "batch_per_device": 4},
}

LOOPS = ("usual", "accumulating", "zeroing_after_forward", "evaluating", "smaller_last_batch")


def torchrun(num_processes, *arguments, cwd):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += [f"--nproc-per-node={num_processes}", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=cwd)
    assert done.returncode == 0, done.stderr
    return done


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    worker = Path(__file__).with_name("one_line_worker.py")
    done = torchrun(2, worker, json.dumps(PLANS), cwd=tmp_path_factory.mktemp("worker"))
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


def test_each_process_of_a_pipeline_has_its_part_of_the_state(found):
    lines = [line for line in found["pp2", "usual"] if line["optimizer_first"]]
    first, second = ({*line["names"]} for line in lines)
    assert first
    assert second
    assert not first & second
    assert first | second == {*lines[0]["all_names"]}


@pytest.mark.parametrize("plan", PLANS)
def test_different_batches_are_refused_everywhere(found, plan):
    texts = [line["text"] for line in found[plan, "error"]]
    assert len(texts) == 2
    assert all("process 1 was given another first batch" in text for text in texts)
