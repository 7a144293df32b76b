"""A plan that does not fit is recorded, and the others run."""

from typing import Any

import pytest
import torch

from parplan.backend.execution import execute as execute_module
from parplan.backend.execution.execute import execute
from parplan.backend.workers.launch import OutOfMemoryError
from parplan.backend.workers.out_of_memory import RanOutOfMemoryError, noticing
from parplan.errors import RunFailedError
from parplan.sim.models.model import model_preset
from parplan.sim.plan import Plan
from parplan.sim.software.framework import NO_OVERHEAD
from parplan.sim.workload import Workload

WORKLOAD = Workload(
    model=model_preset("gpt-tiny"),
    seq_len=16,
    global_batch=8,
    precision="fp32",
    framework=NO_OVERHEAD,
)
PLANS = [
    Plan(data_parallel=2, batch_per_device=size, num_micro_batches=4 // size) for size in (4, 2, 1)
]


def test_an_allocation_that_fails_is_told_apart() -> None:
    with pytest.raises(RanOutOfMemoryError) as caught, noticing(3):
        torch.empty(2**59, dtype=torch.float32)
    assert caught.value.place == 3
    with pytest.raises(RuntimeError, match="other"), noticing(3):
        raise RuntimeError("other")
    with pytest.raises(RanOutOfMemoryError), noticing(1):
        raise torch.OutOfMemoryError("CUDA out of memory")


def launching(monkeypatch: pytest.MonkeyPatch, too_large: set[Plan]) -> list[list[Any]]:
    asked = []

    def launch(job: dict[str, Any], num_processes: int, **others: object) -> dict[str, Any]:
        plans = [Plan.from_json(table) for table in job["plans"]]
        asked.append(plans)
        for place, plan in enumerate(plans):
            if plan in too_large:
                raise OutOfMemoryError(place)
        return {"calibration": [], "candidates": [], "executed": [], "hand_written": []}

    monkeypatch.setattr(execute_module, "launch", launch)
    return asked


def test_plans_without_memory_are_left_out_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = launching(monkeypatch, {PLANS[0], PLANS[2]})
    lines: list[str] = []
    found = execute(WORKLOAD, 2, PLANS, choose=False, report=lines.append)
    assert found.out_of_memory == (PLANS[0], PLANS[2])
    assert asked == [PLANS, PLANS[1:], PLANS[1:2]]
    assert len(lines) == 2


def test_when_none_fits_the_run_has_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    launching(monkeypatch, set(PLANS))
    with pytest.raises(RunFailedError, match="no plan fits into the memory that is there"):
        execute(WORKLOAD, 2, PLANS, choose=False)
