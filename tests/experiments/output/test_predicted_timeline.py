"""The timeline of a predicted step: names in words, arguments, arrows, counters, its size."""

import gzip
import json
from typing import Any

import pytest

from parplan.experiments.output.folder import OutputFolder
from parplan.hardware.machines.presets import cluster_preset
from parplan.sim.analysis.event_words import event_words
from parplan.sim.analysis.predicted_timeline import predicted_timeline
from parplan.sim.analysis.timeline_facts import link_words, thinned
from parplan.sim.cost_model.stage_costs import message_bytes
from parplan.sim.memory.over_time import MemoryOverTime
from parplan.sim.models.model import model_preset
from parplan.sim.plan import Plan
from parplan.sim.prediction.predict import compile_plan, predict
from parplan.sim.run import Event, Run
from parplan.sim.workload import Workload

CLUSTER = cluster_preset("16xh100")
WORKLOAD = Workload(model_preset("llama2-7b"), seq_len=1024, global_batch=16)
PLAN = Plan(num_stages=2, tensor_parallel=4, data_parallel=2, num_micro_batches=4,
            batch_per_device=2, zero_stage=1, sequence_parallel=True)  # fmt: skip


@pytest.fixture(scope="module")
def run() -> Run:
    return predict(compile_plan(WORKLOAD, CLUSTER, PLAN))


@pytest.fixture(scope="module")
def entries(run: Run) -> list[dict[str, Any]]:
    compiled = compile_plan(WORKLOAD, CLUSTER, PLAN)
    found: list[dict[str, Any]] = predicted_timeline(WORKLOAD, CLUSTER, compiled, run)[
        "traceEvents"
    ]
    return found


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("0F3", "forward of micro-batch 3"),
        ("2I0", "input backward of micro-batch 0"),
        ("11W10", "weight backward of micro-batch 10"),
        ("0F3>1", "activations of micro-batch 3 to stage 1"),
        ("1B3>0", "gradients of micro-batch 3 to stage 0"),
        ("0F3 attention all-reduce", "attention all-reduce"),
        ("reduce 0", "reduce gradients of stage 0"),
        ("gather 5", "gather parameters of stage 5"),
        ("optimizer 1", "optimizer step of stage 1"),
        ("something else", "something else"),
    ],
)
def test_events_are_named_in_words(name: str, said: str) -> None:
    assert event_words(Event(0, "any", name, 0.0, 1.0)).name == said


def test_every_event_has_its_parts_as_arguments(entries: list[dict[str, Any]]) -> None:
    bars = [e for e in entries if e["ph"] == "X"]
    forward = next(e for e in bars if e["name"] == "forward of micro-batch 3" and e["pid"] == 1)
    assert forward["args"]["micro-batch"] == 3
    assert forward["args"]["stage"] == 1
    assert forward["args"]["action"] == "1F3"
    shares = [float(v[:-1]) for k, v in forward["args"].items() if str(v).endswith("%")]
    assert sum(shares) == pytest.approx(100, abs=0.5)
    assert "tensor exchange" in forward["args"]
    message = next(e for e in bars if e["cat"] == "send")
    assert message["args"]["bytes"] == round(message_bytes(WORKLOAD, PLAN))
    assert message["args"]["link"] == link_words(CLUSTER, 8)
    assert message["args"]["link"].startswith("between nodes")
    exchange = next(e for e in bars if e["cat"] == "tensor-parallel")
    assert exchange["args"]["ranks"] == 4
    assert exchange["args"]["bytes"] > 0
    assert exchange["args"]["link"].startswith("within a node")


def test_exchanges_lie_within_their_actions_on_a_track_of_their_own(
    entries: list[dict[str, Any]],
) -> None:
    tracks = {
        (e["pid"], e["tid"]): e["args"]["name"] for e in entries if e["name"] == "thread_name"
    }
    assert "tensor-parallel" in tracks.values()
    actions = {
        (e["pid"], e["args"]["action"]): (e["ts"], e["ts"] + e["dur"])
        for e in entries
        if e["ph"] == "X" and e["cat"] == "compute"
    }
    exchanges = [e for e in entries if e["ph"] == "X" and e["cat"] == "tensor-parallel"]
    assert exchanges
    for entry in exchanges:
        assert tracks[entry["pid"], entry["tid"]] == "tensor-parallel"
        start, end = actions[entry["pid"], entry["args"]["action"].split()[0]]
        assert start - 1e-3 <= entry["ts"]
        assert entry["ts"] + entry["dur"] <= end + 1e-3


def test_an_arrow_joins_each_message_to_what_waits_for_it(
    run: Run, entries: list[dict[str, Any]]
) -> None:
    begins = {e["id"]: e for e in entries if e["ph"] == "s"}
    ends = {e["id"]: e for e in entries if e["ph"] == "f"}
    assert len(begins) == sum(event.stream == "send" for event in run.events)
    assert begins.keys() == ends.keys()
    bars = {(e["pid"], e["tid"], e["ts"]): e for e in entries if e["ph"] == "X"}
    for number, begin in begins.items():
        end = ends[number]
        message = bars[begin["pid"], begin["tid"], begin["ts"]]
        waiting = bars[end["pid"], end["tid"], end["ts"]]
        assert message["cat"] == "send"
        assert waiting["cat"] == "compute"
        assert waiting["args"]["micro-batch"] == message["args"]["micro-batch"]
        assert waiting["args"]["stage"] == message["args"]["to stage"]
        assert end["ts"] >= message["ts"] + message["dur"] - 1e-3


def test_counters_show_memory_with_its_peak(run: Run, entries: list[dict[str, Any]]) -> None:
    compiled = compile_plan(WORKLOAD, CLUSTER, PLAN)
    counters = [e for e in entries if e["ph"] == "C"]
    for rank, memory in enumerate(compiled.memory):
        totals = [sum(e["args"].values()) for e in counters if e["pid"] == rank]
        assert max(totals) == pytest.approx(memory.total_bytes / 1e9, rel=0.02)
    assert all(0 <= e["ts"] <= run.step_s * 1e6 for e in counters)


def test_a_thinned_curve_keeps_its_peak(run: Run) -> None:
    from parplan.sim.analysis.timeline_facts import facts_of

    whole = facts_of(WORKLOAD, CLUSTER, compile_plan(WORKLOAD, CLUSTER, PLAN), run).memory[0]
    few: MemoryOverTime = thinned(whole, 4)
    assert len(few.times_s) == 4
    assert few.peak_bytes == whole.peak_bytes
    assert few.peak_s == whole.peak_s


@pytest.mark.long
def test_the_file_of_a_long_pipeline_is_small(tmp_path: Any) -> None:
    workload = Workload(model_preset("gpt3-175b"), seq_len=2048, global_batch=512)
    cluster = cluster_preset("512xh100")
    plan = Plan(num_stages=64, num_micro_batches=512, tensor_parallel=8)
    compiled = compile_plan(workload, cluster, plan)
    run = predict(compiled)
    output = OutputFolder(tmp_path / "out", [])
    output.write_trace(predicted_timeline(workload, cluster, compiled, run))
    (path,) = (tmp_path / "out").glob("timeline*")
    assert path.stat().st_size < 10_000_000
    entries = json.loads(gzip.decompress(path.read_bytes()))["traceEvents"]
    actions = [e for e in entries if e["ph"] == "X" and e["cat"] == "compute"]
    assert len(actions) >= 64 * 512 * 2
    assert sum(e["ph"] == "s" for e in entries) == 63 * 512 * 2
    assert any(e["cat"] == "tensor-parallel" for e in entries if e["ph"] == "X")


def test_a_small_timeline_is_plain_and_a_large_one_replaces_it(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    OutputFolder(tmp_path, []).write_trace({"traceEvents": []})
    assert json.loads((tmp_path / "timeline.json").read_text()) == {"traceEvents": []}
    monkeypatch.setattr("parplan.experiments.output.folder.LARGE_TRACE", 5)
    OutputFolder(tmp_path, []).write_trace({"traceEvents": [1]})
    assert not (tmp_path / "timeline.json").exists()
    found = gzip.decompress((tmp_path / "timeline.json.gz").read_bytes())
    assert json.loads(found) == {"traceEvents": [1]}
