"""Scaling: the best plan at each size, shares that make a whole, gains that are real."""

import csv
import json
from itertools import pairwise
from pathlib import Path

import pytest

from parplan.errors import ParplanError
from parplan.experiments.cli import main
from parplan.experiments.landscape.machine import changed
from parplan.experiments.scaling import study
from parplan.experiments.scaling.figure import efficiency, figure
from parplan.experiments.scaling.machines import AS_IT_IS, ScaledMachine, node_named, what_if
from parplan.experiments.scaling.study import GROUPS, ScalePoint, point
from parplan.hardware.machines.presets import cluster_preset
from parplan.planners.search.exhaustive import exhaustive
from parplan.planners.spaces.make import constraints_of_options, full_candidates
from parplan.planners.spaces.options import Options
from parplan.sim.analysis.time_split import PARTS
from parplan.sim.models.model import model_preset
from parplan.sim.plan import Plan
from parplan.sim.prediction.predict import compile_plan, predict
from parplan.sim.software.framework import NO_OVERHEAD
from parplan.sim.workload import Workload

WORKLOAD = Workload(
    model=model_preset("llama2-7b"), seq_len=2048, global_batch=64, framework=NO_OVERHEAD
)
BASE = constraints_of_options(Options())
NODE = node_named("a100-sxm-80gb")


def test_a_point_is_the_best_plan_of_an_exhaustive_search() -> None:
    machine = ScaledMachine(node=NODE)
    cluster = machine.sized(16)
    assert cluster.num_accelerators == 16
    found = point(WORKLOAD, machine, 16, BASE, ask_why=True)
    best = exhaustive(WORKLOAD, cluster, full_candidates(WORKLOAD, cluster, Options())).best
    assert best is not None
    assert found.step_s == best.step_s
    assert found.tokens_per_s == pytest.approx(64 * 2048 / (best.step_s or 0))
    assert sum(found.shares.values()) == pytest.approx(1)
    plan = Plan.from_json(json.loads(json.dumps(dict(found.fields))))
    for name in ("compute", "network_bandwidth"):
        better = changed(cluster, name, 2.0)
        after = predict(compile_plan(WORKLOAD, better, plan)).step_s
        assert found.gains[name] == pytest.approx(1 - after / (best.step_s or 0))
    assert found.bottleneck in found.gains
    assert found.bottleneck != "compute"


def test_groups_are_all_parts_of_a_step_once() -> None:
    parts = [part for group in GROUPS.values() for part in group]
    assert sorted(parts) == sorted(PARTS)


def test_efficiency_is_against_the_first_size_that_fits() -> None:
    points = [
        ScalePoint(accelerators=1, global_batch=1, reason="too large"),
        ScalePoint(accelerators=2, global_batch=1, tokens_per_s=10.0),
        ScalePoint(accelerators=4, global_batch=1, tokens_per_s=15.0),
    ]
    assert efficiency(points)[1:] == [1.0, 0.75]
    assert efficiency(points)[0] != efficiency(points)[0]


def test_machines_of_any_size() -> None:
    for name in ("h100", "dgx-h100", "64xh100", "8xdgx-h100"):
        assert node_named(name) == node_named("h100")
    machine = ScaledMachine(node=node_named("h100"))
    same = cluster_preset("64xh100")
    assert machine.sized(64).tiers == same.tiers
    assert machine.sized(64).accelerator == same.accelerator
    assert machine.sized(2).num_nodes == 1
    with pytest.raises(ParplanError, match="12 accelerators do not fill nodes of 8"):
        machine.sized(12)
    with pytest.raises(ParplanError, match="has one size"):
        node_named("4xLarge.2048GB")
    with pytest.raises(ParplanError, match="did you mean h100-"):
        node_named("h100x")


def test_what_if() -> None:
    more = what_if(NODE, "memory=2")
    assert (
        more.sized(8).accelerator.memory_bytes
        == 2 * ScaledMachine(node=NODE).sized(8).accelerator.memory_bytes
    )
    assert what_if(NODE, "accelerator=h100").sized(8).accelerator.name == "h100-sxm"
    # A single node has no network that could be twice as fast.
    assert what_if(NODE, "network_bandwidth=2").sized(8).num_accelerators == 8
    for text, message in (
        ("memory", "expected PART=FACTOR"),
        ("memry=2", "did you mean memory"),
        ("memory=x", "expected a factor"),
        ("memory=0", "above 0"),
        ("accelerator=h1000", "did you mean"),
    ):
        with pytest.raises(ParplanError, match=message):
            what_if(NODE, text)


WORDS = ("llama2-7b", "--cluster", "a100-sxm-80gb", "--seq-len", "2048", "--global-batch", "64")


def run(*words: str, out: Path, sizes: str = "1,2,4,16") -> int:
    return main(["scale", *WORDS, "--sizes", sizes, *words, "-o", str(out)])


def test_the_command_writes_curves_and_says_what_is_lost(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert run("--what-if", "memory=2", out=out) == 0
    assert {path.name for path in out.iterdir()} == {
        *("manifest.json", "points.jsonl", "scaling.csv", "scaling.png"),
    }
    said = capsys.readouterr().out
    assert "of the step on 16, twice as much would save: compute " in said
    with (out / "scaling.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * 2 * 4
    for row in rows:
        weak = row["scaling"] == "weak"
        assert int(row["global_batch"]) == 64 * (int(row["accelerators"]) if weak else 1)
    own = [row for row in rows if row["machine"] == AS_IT_IS and row["scaling"] == "strong"]
    more = [row for row in rows if row["machine"] == "memory x 2" and row["scaling"] == "strong"]
    # 7 billion parameters need more than one A100, but not of twice the memory.
    assert (own[0]["step_s"], bool(more[0]["step_s"])) == ("", True)
    assert "of the device" in own[0]["reason"]
    for a, b in zip(own[1:], more[1:], strict=True):
        assert float(b["step_s"]) <= float(a["step_s"])
    rates = [float(row["tokens_per_s"]) for row in own[1:]]
    assert all(b > a for a, b in pairwise(rates))
    assert run(out=out, sizes="4") == 0
    with (out / "scaling.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 2


def test_the_picture_stacks_the_shares() -> None:
    points = [point(WORKLOAD, ScaledMachine(node=NODE), n, BASE, ask_why=False) for n in (1, 4, 8)]
    drawing = figure({"strong": {AS_IT_IS: points}}, "title")
    rates, share, stack = drawing.axes
    assert [axes.get_ylabel().split("\n")[0] for axes in (rates, share, stack)] == [
        *("tokens per second", "efficiency against the", "share of the step [%]"),
    ]
    tops = [bar.get_y() + bar.get_height() for bar in stack.patches]  # type: ignore[attr-defined]
    assert max(tops) == pytest.approx(100)
    assert stack.texts[0].get_text() == "nothing\nfits"
    assert "DP" in stack.texts[-1].get_text()


def test_interrupted_scaling_goes_on_and_bad_input_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    counted: list[int] = []

    def interrupted(*given: object, **named: object) -> ScalePoint:
        if len(counted) == 2:
            raise KeyboardInterrupt
        counted.append(1)
        return point(*given, **named)  # type: ignore[arg-type]

    out, words = tmp_path / "out", ("--scaling", "strong", "--workers", "1")
    monkeypatch.setattr(study, "point", interrupted)
    assert run(*words, out=out) == 130
    assert "2 searches done; the same command goes on" in capsys.readouterr().err
    counted.clear()
    assert run(*words, out=out) == 0
    assert len(counted) == 2
    for bad, sizes, message in (
        ((), "4,2", "--sizes: expected ascending numbers"),
        ((), "a", "--sizes: expected numbers"),
        ((), "12", "do not fill nodes of 8"),
        (("--global-batch", "3"), "2,3", "does not grow evenly from 2 to 3"),
        (("--what-if", "memory=2", "--what-if", "memory=2"), "2", "is there twice"),
    ):
        assert run(*bad, out=tmp_path / "bad", sizes=sizes) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "bad").exists()


def test_nothing_fits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--scaling", "strong", out=tmp_path / "out", sizes="1") == 1
    assert "nothing fits at any size" in capsys.readouterr().out
    assert (tmp_path / "out" / "scaling.png").is_file()
