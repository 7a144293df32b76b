"""The benchmark runs, and counts what it says it counts. No test looks at a time."""

import json
from pathlib import Path

import pytest

from parplan.experiments import benchmark
from parplan.experiments.cli import main
from parplan.sim.instructions import check_complete
from parplan.sim.lowering import lower


def test_the_command_prints_and_writes_every_figure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["benchmark", "--small", "-o", str(tmp_path)]) == 0
    found = json.loads((tmp_path / "benchmark.json").read_text())
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == 1 + len(found)
    assert {m["unit"] for m in found} >= {"s", "events/s", "events/action", "ns/action", "x SimPy"}


@pytest.mark.parametrize("size", benchmark.SIZES[:3])
def test_an_action_costs_two_events_at_most(size: benchmark.Size) -> None:
    schedule = size.schedule()
    check_complete(schedule, size.stages, size.micro_batches)
    messages = int((lower(schedule).slot_out >= 0).sum())
    # The ends of actions, arrivals, begin and end of the ranks' processes, and the end of all.
    expected = sum(map(len, schedule)) + messages + 2 * size.ranks + 1
    events = benchmark.num_events(schedule, benchmark.random_stages(size.stages))
    assert events - expected in (0, 1)
