"""Memory over a step in the form that torch's viewers read."""

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch.cuda import _memory_viz

from parplan.experiments.cli import main
from parplan.hardware.machines.presets import cluster_preset
from parplan.sim.cost_model.stage_costs import message_bytes
from parplan.sim.memory.over_time import MemoryOverTime, memory_over_time
from parplan.sim.memory.peak import stage_needs
from parplan.sim.memory.snapshot import memory_snapshot
from parplan.sim.plan_file import plan_table
from parplan.sim.prediction.predict import compile_plan, predict
from tests.experiments.interop.interop_cases import CASES


def made(case: str) -> tuple[tuple[MemoryOverTime, ...], dict[str, Any]]:
    plan, workload, name = CASES[case]
    compiled = compile_plan(workload, cluster_preset(name), plan)
    run = predict(compiled)
    ranks = memory_over_time(
        compiled.schedule,
        stage_needs(workload, plan),
        run,
        message_bytes=message_bytes(workload, plan),
        fragmented_share=0.05,
    )
    return ranks, memory_snapshot(ranks, run)


@pytest.mark.parametrize("case", CASES)
def test_replaying_the_events_gives_the_memory_back(case: str) -> None:
    ranks, snapshot = made(case)
    assert len(snapshot["device_traces"]) == len(ranks)
    for memory, trace in zip(ranks, snapshot["device_traces"], strict=True):
        live: dict[int, int] = {}
        levels = {0: 0}
        for entry in trace:
            if entry["action"] == "alloc":
                assert entry["addr"] not in live
                live[entry["addr"]] = entry["size"]
            elif entry["action"] == "free_completed":
                assert live.pop(entry["addr"]) == entry["size"]
            levels[entry["time_us"]] = max(levels.get(entry["time_us"], 0), sum(live.values()))
        slack = len(trace)
        assert max(levels.values()) == pytest.approx(memory.peak_bytes, abs=slack)
        assert sum(live.values()) == pytest.approx(memory.total_bytes[-1], abs=slack)
        times = [entry["time_us"] for entry in trace]
        assert times == sorted(times)
        assert times[-1] <= np.ceil(memory.times_s[-1] * 1e6)


def test_torch_reads_it() -> None:
    ranks, snapshot = made("experts")
    assert "MemoryViz.js" in _memory_viz.trace_plot(snapshot, device=1)
    text = _memory_viz.trace(snapshot)
    for device, trace in enumerate(snapshot["device_traces"]):
        assert f"Device {device} ----------------\n{len(trace)} entries" in text
    names = {e["frames"][0]["name"] for e in snapshot["device_traces"][1]}
    assert {"parameters", "optimizer", "1F0 activations", "1F7 activations"} <= names
    total = sum(segment["total_size"] for segment in snapshot["segments"])
    assert total == pytest.approx(sum(m.state.state_bytes for m in ranks), abs=100)


def test_the_command_writes_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    plan, workload, cluster = CASES["experts"]
    Path("plan.json").write_text(json.dumps(plan_table(plan, workload, cluster)))
    assert main(["simulate", "plan.json", "--memory-snapshot"]) == 0
    # Written by the line above.
    snapshot = pickle.loads(Path("out/simulate/memory_snapshot.pickle").read_bytes())
    assert len(snapshot["device_traces"]) == plan.num_stages
