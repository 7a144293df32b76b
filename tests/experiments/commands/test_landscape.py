"""Landscapes: cells are the best plans with their values, or say why there is none."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import pytest
from matplotlib.collections import LineCollection

from parplan.errors import ParplanError
from parplan.experiments.cli import main
from parplan.experiments.landscape import cells as cells_module
from parplan.experiments.landscape.axes import axis
from parplan.experiments.landscape.cells import Cell, LandscapeRequest, Worker, laid_out
from parplan.experiments.landscape.figure import Landscape, heat_maps, slices
from parplan.experiments.landscape.machine import CHANGES, changed
from parplan.experiments.landscape.metrics import METRICS
from parplan.hardware.machines.presets import cluster_preset
from parplan.planners.search.exhaustive import exhaustive
from parplan.planners.spaces.make import constraints_of_options, full_candidates
from parplan.planners.spaces.options import Options
from parplan.sim.models.model import model_preset
from parplan.sim.plan import Plan
from parplan.sim.software.framework import NO_OVERHEAD
from parplan.sim.workload import Workload

WORKLOAD = Workload(
    model=model_preset("llama2-7b"), seq_len=1024, global_batch=16, framework=NO_OVERHEAD
)
CLUSTER = cluster_preset("2xdgx-a100")
BASE = constraints_of_options(Options())
WORDS = ("llama2-7b", "--cluster", "2xdgx-a100", "--seq-len", "1024", "--global-batch", "16")


def request(*texts: str, **others: object) -> LandscapeRequest:
    axes = tuple(axis(text, WORKLOAD, CLUSTER, BASE) for text in texts)
    return LandscapeRequest(workload=WORKLOAD, cluster=CLUSTER, axes=axes, base=BASE, **others)  # type: ignore[arg-type]


def landscape(asked: LandscapeRequest, name: str = "step-time") -> Landscape:
    x, y, *others = (*asked.axes, None)
    worker = Worker(asked)
    values: list[dict[str, object]] = [{}]
    for one in asked.axes:
        values = [{**had, one.name: value} for had in values for value in one.values]
    return Landscape(
        x=x,  # type: ignore[arg-type]
        y=y,
        third=others[0] if others else None,
        cells=[worker.cell(one) for one in values],
        name=name,
        metric=METRICS[name],
        title="",
    )


def test_cells_are_the_fastest_plans_of_an_exhaustive_search() -> None:
    asked = request("num_stages", "zero_stage", "recomputation=none,full")
    worker = Worker(asked)
    trials = exhaustive(WORKLOAD, CLUSTER, full_candidates(WORKLOAD, CLUSTER, Options())).trials
    for stages, zero, again in ((1, 3, "none"), (2, 1, "full"), (16, 0, "none"), (4, 2, "none")):
        cell = worker.cell({"num_stages": stages, "zero_stage": zero, "recomputation": again})
        plans = [
            t
            for t in trials
            if (t.plan.num_stages, t.plan.zero_stage, t.plan.recomputation) == (stages, zero, again)
        ]
        known = [trial.step_s for trial in plans if trial.step_s is not None]
        if known:
            assert cell.metrics["step-time"] == min(known)
        else:
            assert cell.verdict == ("does not fit" if plans else "no such plan")


def test_a_schedule_is_that_of_a_pipeline() -> None:
    worker = Worker(request("schedule=gpipe,interleaved-1f1b"))
    for schedule in ("gpipe", "interleaved-1f1b"):
        plan = Plan.from_json(json.loads(json.dumps(worker.cell({"schedule": schedule}).plan)))
        assert plan.schedule == schedule
        assert plan.num_stages > 1


def test_cells_say_why_nothing_is_possible() -> None:
    worker = Worker(request("memory=0.02", "tensor_parallel=1,64"))
    small = worker.cell({"memory": 0.02, "tensor_parallel": 1})
    assert small.verdict == "does not fit"
    assert small.memory_gb is not None
    assert small.limit_gb == pytest.approx(0.8 * 0.02 * CLUSTER.accelerator.memory_bytes / 1e9)
    assert small.memory_gb > small.limit_gb
    assert "% of the device" in small.reason
    assert not small.metrics
    none = worker.cell({"memory": 1.0, "tensor_parallel": 64})
    assert none.verdict == "no such plan"
    assert "tensor_parallel: 64" in none.reason


def test_around_a_plan_the_other_fields_stay() -> None:
    plan = Plan(num_stages=2, data_parallel=8, num_micro_batches=2, recomputation="full")
    other = laid_out(plan, {"tensor_parallel": 4}, WORKLOAD, CLUSTER)
    assert other == replace(plan, tensor_parallel=4, data_parallel=2, num_micro_batches=8)
    assert laid_out(plan, {"num_stages": 1}, WORKLOAD, CLUSTER).data_parallel == 16
    assert laid_out(plan, {"data_parallel": 4}, WORKLOAD, CLUSTER).num_stages == 4
    assert laid_out(plan, {"num_micro_batches": 1}, WORKLOAD, CLUSTER).batch_per_device == 2
    assert laid_out(plan, {"zero_stage": 2}, WORKLOAD, CLUSTER).zero_stage == 2
    cell = Worker(request("tensor_parallel=3", around=plan)).cell({"tensor_parallel": 3})
    assert (cell.verdict, cell.reason) == ("no such plan", "16 accelerators do not divide by 6")


@pytest.mark.parametrize("name", CHANGES)
def test_a_better_machine_is_never_slower(name: str) -> None:
    plan = Plan(tensor_parallel=16, num_micro_batches=16, sequence_parallel=True)
    asked = request(f"{name}=0.5,1,2", around=plan)
    steps = [Worker(asked).cell({name: f}).metrics["step-time"] for f in (0.2, 1.0, 2.0)]
    ordered = sorted(steps, reverse=name != "network_latency")
    assert steps == ordered
    assert (steps[0] != steps[2]) == (name != "memory")


def test_what_cannot_be_varied_is_refused() -> None:
    with pytest.raises(ParplanError, match="no links between nodes"):
        changed(cluster_preset("dgx-a100"), "network_bandwidth", 2)
    with pytest.raises(ParplanError, match="no links between nodes"):
        axis("network_bandwidth", WORKLOAD, cluster_preset("dgx-a100"), BASE)
    with pytest.raises(ParplanError, match="did you mean memory_bandwidth"):
        changed(CLUSTER, "memory_bandwith", 2)
    assert changed(CLUSTER, "compute", 2).accelerator.peak_flop_per_s.bf16 == pytest.approx(
        2 * (CLUSTER.accelerator.peak_flop_per_s.bf16 or 0)
    )


def test_heat_maps_mark_the_best_and_hatch_the_rest() -> None:
    land = landscape(request("num_stages=1,2,16", "memory=0.05,0.3,1"))
    best = land.best
    assert best is not None
    assert best.metrics["step-time"] == min(
        cell.metrics["step-time"] for cell in land.cells if cell.verdict == "fits"
    )
    (axes, bar) = heat_maps(land).axes
    assert axes.get_ylabel() == "memory of an accelerator [times the preset's]"
    assert bar.get_ylabel() == "step time [s]"
    hatched = [patch for patch in axes.patches if patch.get_hatch()]
    assert len(hatched) == sum(cell.verdict != "fits" for cell in land.cells) > 0
    (frame,) = (patch for patch in axes.patches if not patch.get_hatch())
    x = land.x.values.index(best.values["num_stages"])
    y = (0.05, 0.3, 1.0).index(best.values["memory"])
    assert frame.get_xy() == (x - 0.5, y - 0.5)  # type: ignore[attr-defined]
    lines = [c for c in axes.collections if isinstance(c, LineCollection)]
    assert any(line.get_segments() for line in lines)
    written = {text.get_text() for text in axes.texts}
    assert f"{best.metrics['step-time']:.3g}" in written
    assert any(text.endswith(" GB") for text in written)


def test_lines_and_panels() -> None:
    one = landscape(request("memory=0.05,0.5,1"))
    top, bottom = slices(one).axes
    assert top.get_ylabel() == "step time [s]"
    assert bottom.get_ylabel() == "memory [GB]"
    assert [patch.get_hatch() for patch in bottom.patches] == ["///"]
    many = landscape(
        request("num_stages=1,2", "zero_stage=0,3", "recomputation=none,full"), "memory"
    )
    titles = [axes.get_title() for axes in slices(many).axes]
    assert titles == ["recomputation: none", "recomputation: full"]
    assert len([axes for axes in heat_maps(many).axes if axes.get_title()]) == 2


def run(*words: str, out: Path) -> int:
    return main(["landscape", *WORDS, *words, "-o", str(out)])


def test_the_command_writes_pictures_and_every_cell(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    money = ("--metric", "cost", "--tokens", "1e9", "--price-per-hour", "2")
    assert run("--x", "num_stages", "--y", "tensor_parallel", *money, out=out) == 0
    names = {"cells.jsonl", "landscape.csv", "landscape.png", "manifest.json", "slices.png"}
    assert {path.name for path in out.iterdir()} == names
    said = capsys.readouterr().out
    assert said.startswith("best cost of the training [currency of the price]: ")
    with (out / "landscape.csv").open() as file:
        rows = list(csv.DictReader(file))
    steps = -(-(10**9) // (16 * 1024))
    for row in rows:
        if row["verdict"] == "fits":
            cost = 2 * 16 * steps * float(row["step-time"]) / 3600
            assert float(row["cost"]) == pytest.approx(cost)
            assert row["plan.num_stages"] == row["num_stages"]
        else:
            assert row["reason"]
    assert run("--x", "num_stages", out=out) == 0
    assert {path.name for path in out.iterdir()} == names - {"landscape.png"}


def test_an_interrupted_landscape_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[dict[str, object]] = []
    cell = cells_module.Worker.cell

    def interrupted(self: Worker, values: dict[str, object]) -> Cell:
        if len(asked) == 3:
            raise KeyboardInterrupt
        asked.append(values)
        return cell(self, values)

    words = ("--x", "num_stages=1,2,4,8", "--y", "zero_stage=0,1")
    monkeypatch.setattr(cells_module.Worker, "cell", interrupted)
    out = tmp_path / "out"
    assert run(*words, out=out) == 130
    assert "3 of 8 cells done; the same goes on" in capsys.readouterr().err
    with (out / "cells.jsonl").open("a") as file:
        file.write('{"values": {"num_st')  # As a crash leaves it.
    assert run("--x", "num_stages=1,2", out=out) == 2
    assert "is of other work that was interrupted" in capsys.readouterr().err
    monkeypatch.setattr(cells_module.Worker, "cell", cell)
    assert run(*words, out=out) == 0
    assert "3 of 8 cells are done already" in capsys.readouterr().err
    assert len((out / "cells.jsonl").read_text().splitlines()) == 9
    whole = tmp_path / "whole"
    assert run(*words, out=whole) == 0
    assert (whole / "landscape.csv").read_bytes() == (out / "landscape.csv").read_bytes()


def test_a_landscape_without_a_plan_is_drawn_and_explained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--x", "memory=0.001,0.002", "--y", "num_stages=1,2")
    assert run(*words, out=tmp_path / "out") == 1
    said = capsys.readouterr().out
    assert "nothing fits in any of the 4 cells" in said
    assert "the nearest: memory 0.002, num_stages 2: stage 1: 6.8 of 0.1 GB" in said
    assert (tmp_path / "out" / "landscape.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--x", "tensor_paralel"), "did you mean tensor_parallel"),
        (("--x", "num_stages", "--metric", "mfus"), "did you mean mfu"),
        (("--x", "num_stages", "--metric", "cost"), "--metric cost: needs --tokens"),
        (("--x", "num_stages=a"), "--x: num_stages: expected a whole number, got 'a'"),
        (("--x", "num_stages=0"), "at least 1, got 0"),
        (("--x", "num_stages=1,1"), "a value is there twice"),
        (("--x", "memory=-1"), "above 0, got '-1'"),
        (("--x", "schedule=1f2b"), "did you mean 1f1b"),
        (("--x", "recomputation=some"), "is not one of none, selective, full"),
        (("--x", "shard_group"), "needs its values"),
        (("--x", "overlap_tensor_parallel=maybe"), "overlap_tensor_parallel: expected bool"),
        (("--x", "num_stages", "--y", "num_stages"), "a field is there twice"),
        (("--x", f"global_batch={','.join(map(str, range(1, 3002)))}"), "at most 3000"),
    ],
)
def test_mistakes_get_one_line(
    words: tuple[str, ...], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*words, out=tmp_path / "out") == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_shares_are_of_one_in_the_table_and_per_cent_in_words(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert run("--x", "num_stages=2,4", "--metric", "bubble", out=out) == 0
    with (out / "landscape.csv").open() as file:
        rows = list(csv.DictReader(file))
    shares = [float(row["bubble"]) for row in rows if row["verdict"] == "fits"]
    assert all(0 < float(row["mfu"]) < 1 for row in rows if row["verdict"] == "fits")
    said = capsys.readouterr().out
    assert f"best bubble [% of the step]: {100 * min(shares):.4g} at" in said
