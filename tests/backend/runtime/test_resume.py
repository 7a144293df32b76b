"""Scripts with clipping, schedules and checkpoints train as without a plan (resume_worker.py)."""

import json
from collections import defaultdict
from pathlib import Path

import pytest

from parplan.sim.plan import zero_fields
from tests.backend.runtime.test_sharded_parity import chosen
from tests.torchrun import torchrun

TOLERANCE = 1e-9
"""Relative, in float64, as in test_pipeline_parity.py."""

IN_FP32 = 1e-6
"""The same where transformers computes losses and normalisations in fp32."""

PIPELINE = {"num_stages": 2, "num_micro_batches": 4, "batch_per_device": 2}
REPLICAS = {"data_parallel": 2, "num_micro_batches": 2, "batch_per_device": 2}
SHARDS = {**REPLICAS, **zero_fields(3)}
SPLIT = {"tensor_parallel": 2, "num_micro_batches": 4, "batch_per_device": 2}

CASES = {
    "own pipeline, shards": {"model": "own", "before": PIPELINE, "after": SHARDS},
    "own split, pipeline": {"model": "own", "before": SPLIT, "after": PIPELINE},
    "own replicas, split": {"model": "own", "before": REPLICAS, "after": SPLIT},
    "llama replicas, pipeline": {"model": "llama", "before": REPLICAS, "after": PIPELINE},
    "gpt2 shards, pipeline": {"model": "gpt2", "before": SHARDS, "after": PIPELINE},
    "gemma pipeline, shards": {"model": "gemma", "before": PIPELINE, "after": SHARDS},
}


LONG = ("gpt2 shards, pipeline", "gemma pipeline, shards")
"""Further models from Hugging Face; with the quick tests, llama stands for them."""


@pytest.fixture(scope="module")
def found(request, tmp_path_factory):
    pytest.importorskip("transformers")
    worker = Path(__file__).with_name("resume_worker.py")
    done = torchrun(
        2, worker, json.dumps(chosen(request, CASES)), cwd=tmp_path_factory.mktemp("worker")
    )
    lines = defaultdict(list)
    for line in map(json.loads, done.stdout.splitlines()):
        lines[line["case"]].append(line)
    return lines


@pytest.mark.parametrize(
    "case", [pytest.param(c, marks=pytest.mark.long if c in LONG else ()) for c in CASES]
)
def test_another_plan_goes_on_from_a_checkpoint(found, case):
    lines = found[case]
    assert len(lines) == 2
    for line in lines:
        # Losses, norms of all gradients, and losses after the step.
        tolerance = TOLERANCE if case.startswith("own") else IN_FP32
        assert line["difference"] < tolerance
        assert line["weight"] < tolerance
        assert line["clipped"] > 0.5
        assert line["more"] == {"step": 3}
