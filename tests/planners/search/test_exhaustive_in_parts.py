"""Searches of more candidates than memory holds: the same answer, in bounded memory."""

import random
import subprocess
import sys
import tracemalloc
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest

from parplan.errors import ParplanError
from parplan.experiments.benchmarks.planners import SEARCHED
from parplan.experiments.cli import main
from parplan.experiments.planning import search as plan_search
from parplan.hardware.machines.presets import cluster_preset
from parplan.planners.algorithms.heuristic.random_search import shuffled
from parplan.planners.costs.goal import LEAST_MEMORY, STEP_TIME, Goal
from parplan.planners.costs.objectives import pareto
from parplan.planners.search import exhaustive as exhaustive_module
from parplan.planners.search.evaluator import Budget
from parplan.planners.search.exhaustive import exhaustive, exhaustive_in_parts
from parplan.planners.search.kept_trials import KeptTrials, Numbered, PartResult
from parplan.planners.search.limits import MOST_RECORDED
from parplan.planners.search.run import run_planner
from parplan.planners.spaces.constraints import Constraints, Range
from parplan.planners.spaces.make import make_space
from parplan.sim.models.model import model_preset
from parplan.sim.software.framework import NO_OVERHEAD
from parplan.sim.workload import Workload

pytestmark = pytest.mark.timeout(120)

SPACE = make_space(
    Workload(model=model_preset("gpt-tiny"), seq_len=64, global_batch=16, framework=NO_OVERHEAD),
    replace(
        cluster_preset("8xh100"),
        accelerator=replace(cluster_preset("8xh100").accelerator, memory_bytes=1e8),
    ),
    Constraints(
        num_stages=Range(max=2),
        tensor_parallel=(1, 2),
        batch_per_device=(1, 2),
        schedule=("1f1b",),
        shard_group=Range(),
        gradient_dtype=("as computed", "fp32"),
        offload_activations=(False, True),
    ),
)


@pytest.mark.parametrize("goal", [STEP_TIME, LEAST_MEMORY], ids=["time", "memory"])
def test_it_finds_what_a_search_that_holds_all_finds(
    goal: Goal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exhaustive_module, "PART", 61)
    monkeypatch.setattr(exhaustive_module, "HELD", 40)
    plans = list(SPACE)
    whole = exhaustive(SPACE.workload, SPACE.cluster, plans, goal=goal)
    parts: list[PartResult] = []
    found = exhaustive_in_parts(SPACE.workload, SPACE.cluster, SPACE, goal=goal, keep=parts.append)
    assert 0 < whole.num_possible < len(plans)
    assert (found.best, found.closest) == (whole.best, whole.closest)
    assert (found.num_possible, found.num_tried) == (whole.num_possible, len(plans))
    assert found.numbers is not None
    assert all(whole.trials[n - 1] == t for n, t in zip(found.numbers, found.trials, strict=True))
    assert pareto(found.trials) == pareto(whole.trials)
    for known in (1, len(parts) - 1):
        again = exhaustive_in_parts(
            SPACE.workload, SPACE.cluster, SPACE, goal=goal, known=parts[:known]
        )
        assert (again.trials, again.numbers) == (found.trials, found.numbers)
        assert again.num_possible == found.num_possible


def test_what_is_held_is_the_best_and_no_more() -> None:
    whole = exhaustive(SPACE.workload, SPACE.cluster, list(SPACE))
    order = list(enumerate(whole.trials, start=1))
    expected = None
    for seed in range(3):
        held = KeptTrials(goal=STEP_TIME, most=30)
        random.Random(seed).shuffle(order)
        for number, trial in order:
            held.add(Numbered(number, trial))
        found = held.trials()
        assert len(found) < 80
        expected = expected or found
        assert found == expected
    timed = sorted((t.step_s, n) for n, t in enumerate(whole.trials, 1) if t.step_s is not None)
    assert {n for _, n in timed[:30]} <= {one.number for one in found}


def test_fifty_million_candidates_take_no_more_memory_than_a_few(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    space = SEARCHED[2].space()
    assert len(space) > 50_000_000
    monkeypatch.setattr(exhaustive_module, "PART", 50)
    peaks: list[int] = []

    def keep(part: PartResult) -> None:
        peaks.append(tracemalloc.get_traced_memory()[1])
        if len(peaks) == 6:
            raise KeyboardInterrupt

    space[0]  # What is known of every space.
    tracemalloc.start()
    try:
        report = exhaustive_in_parts(space.workload, space.cluster, space, keep=keep)
    finally:
        tracemalloc.stop()
    assert (report.stopped, report.num_tried) == ("interrupted", 5 * 50)
    assert max(peaks) < 30e6


def test_the_proven_front_is_that_of_all_plans_with_their_variants() -> None:
    whole = exhaustive(SPACE.workload, SPACE.cluster, list(SPACE))
    found = run_planner("pareto-front", SPACE)
    front = [(t.step_s, max(t.memory_bytes)) for t in pareto(whole.trials)]
    assert [(t.step_s, max(t.memory_bytes)) for t in pareto(found.trials)] == front
    assert len(front) > 10
    assert len(found.trials) < len(SPACE) / 2


def test_planners_refuse_what_their_record_cannot_hold() -> None:
    space = SEARCHED[2].space()
    with pytest.raises(ParplanError, match=r"at most 1,000,000; the space has 50,275,840"):
        run_planner("exhaustive", space)
    with pytest.raises(ParplanError, match=r"budget: at most 1,000,000 evaluations"):
        run_planner("random", space, budget=Budget(evaluations=10**9))
    tracemalloc.start()
    try:
        for name in ("random", "grid", "exhaustive"):
            report = run_planner(name, space, budget=Budget(evaluations=20))
            assert len(report.trials) == 20
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 200e6


def test_numbers_drawn_from_very_many_are_all_of_them_once() -> None:
    few = list(shuffled(50, Random(1)))
    assert sorted(few) == list(range(50))
    many = shuffled(10**12, Random(1))
    drawn = [next(many) for _ in range(1000)]
    assert len(set(drawn)) == 1000
    assert max(drawn) > 0.99 * 10**12


def test_every_number_is_drawn_from_very_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("parplan.planners.algorithms.heuristic.random_search.MOST_RECORDED", 10)
    assert sorted(shuffled(500, Random(2))) == list(range(500))
    firsts = {next(iter(shuffled(11, Random(seed)))) for seed in range(200)}
    assert firsts == set(range(11))


WIDE = """
tensor_parallel = [1, 2]
schedule = "1f1b"
num_stages = { max = 2 }
zero_stage = [0, 1]
batch_per_device = [1, 2]
recomputed_layers = { min = 1 }
"""
WORDS = ("plan", "gpt-tiny", "--cluster", "8xh100", "--seq-len", "64", "--global-batch", "16",
         "--space", "wide.toml", "--pareto", "--workers", "1")  # fmt: skip


def test_the_command_streams_is_interrupted_and_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("wide.toml").write_text(WIDE)
    assert main([*WORDS, "-o", "held"]) == 0
    monkeypatch.setattr(plan_search, "MOST_RECORDED", 60)
    monkeypatch.setattr(exhaustive_module, "PART", 30)
    monkeypatch.setattr("parplan.experiments.planning.record.PART", 30)
    assert main([*WORDS, "-o", "whole"]) == 0
    said = capsys.readouterr().err
    assert "candidates were tried, more than are held" in said
    for name in ("plan.json", "timeline.json", "pareto.csv", "time_split.csv"):
        assert Path("held", name).read_bytes() == Path("whole", name).read_bytes(), name
    add = plan_search.Record.parts

    class Ends:
        def __init__(self, kept: object) -> None:
            self.kept, self.known, self.left = kept, kept.known, 2  # type: ignore[attr-defined]

        def add(self, part: PartResult) -> None:
            self.kept.add(part)  # type: ignore[attr-defined]
            self.left -= 1
            if not self.left:
                raise KeyboardInterrupt

        def close(self) -> None:
            self.kept.close()  # type: ignore[attr-defined]

    with monkeypatch.context() as patched:
        patched.setattr(plan_search.Record, "parts", lambda *given: Ends(add(*given)))
        assert main([*WORDS, "-o", "again"]) == 130
    assert "interrupted; --resume goes on from here" in capsys.readouterr().err
    assert main([*WORDS, "--memory-ratio", "50", "-o", "again", "--resume"]) == 2
    assert "is of another search: memory_ratio" in capsys.readouterr().err
    assert main([*WORDS, "-o", "again", "--resume"]) == 0
    for path in Path("whole").iterdir():
        if path.name != "manifest.json":
            assert path.read_bytes() == Path("again", path.name).read_bytes(), path.name
    assert not Path("again", "search.jsonl").exists()
    assert main([*WORDS, "--detailed-log", "1", "--ap-log", "-o", "x"]) == 2
    assert "--detailed-log: says every candidate, of at most 60" in capsys.readouterr().err
    assert MOST_RECORDED == 1_000_000


LIMITED = """
import resource, signal, sys, threading, time, os
limit = int(sys.argv[1])
from parplan.experiments.cli import main
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
threading.Timer(float(sys.argv[2]), lambda: os.kill(os.getpid(), signal.SIGINT)).start()
code = main(sys.argv[3:])
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print("peak", peak // 1024, "MiB", file=sys.stderr)
sys.exit(code)
"""


@pytest.mark.long
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits of memory are Linux's")
def test_the_command_keeps_a_limit_of_memory(tmp_path: Path) -> None:
    (tmp_path / "wide.toml").write_text(
        "recomputed_layers = { min = 1 }\nshard_group = { min = 2 }\n"
        'gradient_dtype = ["as computed", "fp32"]\n'
        + "".join(
            f"{name} = [false, true]\n"
            for name in ("overlap_gradient_reduction", "overlap_tensor_parallel",
                         "offload_optimizer", "offload_activations")
        )
    )  # fmt: skip
    words = ("plan", "gpt3-175b", "--cluster", "1024xa100-80gb", "--seq-len", "2048",
             "--global-batch", "1536", "--space", "wide.toml", "--workers", "1")  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(3 * 2**30), "20", *words],
        cwd=tmp_path, capture_output=True, text=True, check=False, timeout=110,
    )  # fmt: skip
    assert done.returncode == 130, done.stderr
    assert "The number of candidates is 50275840." in done.stdout
    assert "more than are held" in done.stderr
    assert int(done.stderr.split("\npeak ")[1].split()[0]) < 1024
