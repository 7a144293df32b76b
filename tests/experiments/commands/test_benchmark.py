"""The benchmark runs, and counts what it says it counts. No test looks at a time."""

import json
from pathlib import Path
from typing import Any

import pytest

from parplan.errors import ParplanError
from parplan.experiments.benchmarks import large_jobs, simulator
from parplan.experiments.benchmarks import planners as benchmark_planners
from parplan.experiments.cli import main
from parplan.planners.bounds.space_table import SpaceTable
from parplan.planners.search.evaluator import Evaluator
from parplan.sim.fast.fast import fast_many
from parplan.sim.plan import Plan
from parplan.sim.programs.instructions import check_complete
from parplan.sim.schedules import make_program
from parplan.sim.step.tape import lower


def test_the_command_prints_and_writes_every_figure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["benchmark", "--small", "-o", str(tmp_path)]) == 0
    found = json.loads((tmp_path / "benchmark.json").read_text())
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == 1 + len(found)
    assert {m["unit"] for m in found} >= {"s", "events/s", "events/action", "ns/action", "x SimPy"}


@pytest.mark.parametrize("size", simulator.SIZES[:3])
def test_an_action_costs_two_events_at_most(size: simulator.Size) -> None:
    schedule = size.schedule()
    check_complete(schedule, size.stages, size.micro_batches)
    messages = int((lower(schedule).slot_out >= 0).sum())
    # The ends of actions, arrivals, begin and end of the ranks' processes, and the end of all.
    expected = sum(map(len, schedule)) + messages + 2 * size.ranks + 1
    events = simulator.num_events(schedule, simulator.random_stages(size.stages))
    assert events - expected in (0, 1)


def test_the_search_is_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["benchmark", "--planners", "--small", "--samples", "50", "-o", str(tmp_path)]
    assert main(words) == 0
    found = {(m["what"], m["unit"]): m["value"] for m in _figures(tmp_path)}
    name = benchmark_planners.SMALL[0].name
    assert found[name, "plans"] == len(benchmark_planners.SMALL[0].space())
    assert found[name, "proven"] == 1
    assert found["plans sampled", "plans"] == 50
    assert found["bounds above their step", "plans"] == 0
    assert ("reference case of AP, 30 candidates", "x AP") in found
    assert 0 < found["1,280 layers over 80", "x"] < 1000
    job = large_jobs.JOBS[0].name
    assert found[job, "plans"] > 300_000
    assert found[f"{job}, gap", "%"] <= 100 * large_jobs.MOST_GAP
    assert found[f"{job}, process", "s"] > 0
    assert 0.02 < found[f"{job}, peak memory", "GB"] < 100
    assert len(capsys.readouterr().out.splitlines()) == 1 + len(found)


def _figures(path: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((path / "benchmark.json").read_text())
    return found


def test_a_peer_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ParplanError, match=r"calculon: .*No module named 'calculon'"):
        benchmark_planners.calculon_rate(tmp_path, 0.1)
    assert main(["benchmark", "--calculon", "x", "-o", str(tmp_path)]) != 0
    assert "--calculon: has an effect only with --planners" in capsys.readouterr().err


def test_the_peer_tries_parts_of_its_space(tmp_path: Path) -> None:
    """A stand-in that has the one class that is asked for."""
    package = tmp_path / "calculon" / "llm"
    package.mkdir(parents=True)
    for folder in (package, package.parent):
        (folder / "__init__.py").write_text("")
    (package / "optimal_execution.py").write_text(
        "import logging\n"
        "import multiprocessing as mp\n"
        "class OptimalExecution:\n"
        "    def create_parser(sub):\n"
        "        sp = sub.add_parser('llm-optimal-execution')\n"
        "        sp.add_argument('-c', type=int)\n"
        "        for name in ('app', 'procs', 'batch', 'datatype', 'system', 'output'):\n"
        "            sp.add_argument(name)\n"
        "        sp.set_defaults(func=OptimalExecution.run)\n"
        "    def run(logger, args):\n"
        "        with mp.Pool(args.c) as pool:\n"
        "            pool.starmap(OptimalExecution.search, [(int(args.procs),)] * 5)\n"
        "    def search(count):\n"
        "        log = logging.Logger('sub')\n"
        "        handler = logging.Handler()\n"
        "        handler.emit = lambda record: sum(range(100_000))\n"
        "        log.addHandler(handler)\n"
        "        for _ in range(20):\n"
        "            log.debug('layer')\n"
        "        sum(range(100_000))\n"
        "        return ([], count, count, 0, 1, 1)\n"
    )
    stock = benchmark_planners.calculon_rate(tmp_path, 1e9, muted=False)
    # 21 times as much work: the difference is not the machine's.
    assert benchmark_planners.calculon_rate(tmp_path, 1e9) > 3 * stock > 0


def test_costs_of_drawn_plans_are_their_own() -> None:
    """Where memory rules nothing out, the steps are those of the evaluator."""
    space = benchmark_planners.SMALL[0].space()
    bounds, steps = benchmark_planners.bounds_and_steps(space, 40)
    assert len(bounds) == len(steps) == 40
    table = SpaceTable(space, float("inf"))
    ask = Evaluator(space.workload, space.cluster, memory_ratio=float("inf"))
    for number in range(0, len(space), 211):
        plan = space[number]
        exact = fast_many(lower(make_program(*_size(plan))), table.costs([number], [plan]))
        assert exact.tolist() == [ask(plan).step_s]


def _size(plan: Plan) -> tuple[str, int, int, int]:
    return plan.schedule, plan.num_stages, plan.num_micro_batches, plan.virtual_stages
