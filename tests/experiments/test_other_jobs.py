"""What a fitted platform's software does reaches no other job: plans and steps, to the last bit.

`PARPLAN_WRITE_GOLDEN=1` writes the file anew, for a change that is meant to change them.
"""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from parplan.hardware.machines.presets import cluster_preset
from parplan.planners.search.exhaustive import exhaustive
from parplan.planners.spaces.make import full_candidates
from parplan.planners.spaces.options import Options
from parplan.sim.models.model import model_preset
from parplan.sim.software.framework import framework
from parplan.sim.software.habits import MEGATRON, TORCH
from parplan.sim.workload import Workload

GOLDEN = Path(__file__).parents[1] / "golden" / "other_jobs.json"
SOFTWARE = {"megatron": MEGATRON, "torch": TORCH}
JOBS = [
    (model, cluster, seq_len, batch, name, software)
    for model, cluster, seq_len, batch in (
        ("llama2-7b", "8xh100", 2048, 32),
        ("llama2-13b", "8xa100", 2048, 16),
        ("llama3-8b", "xLarge.512GB", 1024, 16),
        ("mistral-7b", "Large.256GB", 1024, 8),
        ("cerebras-gpt-13b", "2xLarge.1024GB", 1024, 16),
    )
    for name in ("fused", "none")
    for software in ("megatron", "torch")
]


def _found(job: tuple[Any, ...]) -> dict[str, Any]:
    model, machine, seq_len, batch, name, software = job
    workload = Workload(
        model=model_preset(model),
        seq_len=seq_len,
        global_batch=batch,
        framework=framework(name),
        software=SOFTWARE[software],
    )
    cluster, options = cluster_preset(machine), Options(num_stages=2, num_micro_batches=4)
    plans = full_candidates(workload, cluster, options)[::7]
    report = exhaustive(workload, cluster, plans)
    best = report.best
    return {
        "job": list(job),
        "candidates": len(report.trials),
        "possible": report.num_possible,
        "choice": best.plan.to_json() if best else None,
        "step_s": repr(best.step_s) if best else None,
        "steps": repr(sum(t.step_s or 0.0 for t in report.trials)),
        "bytes": repr(sum(sum(t.memory_bytes) for t in report.trials)),
    }


@pytest.mark.parametrize("number", range(len(JOBS)))
def test_other_jobs_are_as_they_were(number: int) -> None:
    found = json.loads(json.dumps(_found(JOBS[number])))
    assert found == json.loads(GOLDEN.read_text())[number]


if os.environ.get("PARPLAN_WRITE_GOLDEN") == "1":
    GOLDEN.write_text(json.dumps([_found(job) for job in JOBS], indent=1) + "\n")
