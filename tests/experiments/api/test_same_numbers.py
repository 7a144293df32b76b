"""The same question has the same answer from Python and from the command line, to the last bit."""

import csv
import io
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

import parplan
from parplan.experiments.cases.held_out import VALIDATION
from parplan.experiments.cli import main

Asked = tuple[str, str, int, int]
DENSE: Asked = ("llama3-8b", "8xh100", 4096, 32)
OLDER: Asked = ("llama2-7b", "8xa100-40gb", 1024, 64)
EXPERTS: Asked = ("mixtral-8x7b", "16xh100", 2048, 16)

PLANS: tuple[tuple[Asked, Mapping[str, Any], tuple[str, ...]], ...] = (
    (DENSE, {}, ()),
    (OLDER, {}, ()),
    (EXPERTS, {"memory_ratio": 95, "space": "full"}, ("--space", "full", "--memory-ratio", "95")),
    (DENSE, {"space": "full", "num_stages": 2}, ("--space", "full", "--num-stages", "2")),
    (
        OLDER,
        {"space": "full", "num_stages": 1, "activation_recomputation": False},
        ("--space", "full", "--num-stages", "1", "--activation-recomputation", "false"),
    ),
    (
        DENSE,
        {"planner": "random", "budget": 40, "seed": 5},
        ("--space", "full", "--planner", "random", "--budget", "40", "--seed", "5"),
    ),
    (
        DENSE,
        {"planner": "annealing", "budget": 60},
        ("--space", "full", "--planner", "annealing", "--budget", "60"),
    ),
    (
        OLDER,
        {"objective": "cost", "tokens": 1e9, "price_per_hour": 2.5},
        ("--objective", "cost", "--tokens", "1e9", "--price-per-hour", "2.5"),
    ),
    (DENSE, {"split_layers": True}, ("--split-layers",)),
    (DENSE, {"executable": True}, ("--executable",)),
    (DENSE, {"no_pipeline_parallel": True}, ("--no-pipeline-parallel",)),
    (DENSE, {"software": "megatron"}, ("--software", "megatron")),
    (DENSE, {"software": "none"}, ("--software", "none")),
    (OLDER, {"precision": "fp32", "tf32": True}, ("--no-mixed-precision", "--tf32")),
    (OLDER, {"attention": "unfused"}, ("--attention", "unfused")),
)
OF_WORKLOAD = ("software", "precision", "tf32", "attention")


def words(asked: Asked) -> list[str]:
    model, cluster, seq_len, batch = asked
    numbers = ["--seq-len", str(seq_len), "--global-batch", str(batch)]
    return [model, "--cluster", cluster, *numbers]


def job(asked: Asked, **fields: Any) -> parplan.Workload:
    return parplan.Workload(asked[0], seq_len=asked[2], global_batch=asked[3], **fields)


def rows(path: str) -> list[dict[str, str]]:
    with Path(path).open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("case", PLANS, ids=lambda case: " ".join([*case[0][:2], *case[2]]))
def test_plan(case: tuple[Asked, Mapping[str, Any], tuple[str, ...]]) -> None:
    asked, options, extra = case
    assert main(["plan", *words(asked), *extra, "-o", "out"]) == 0
    of_job = {name: value for name, value in options.items() if name in OF_WORKLOAD}
    others = {name: value for name, value in options.items() if name not in OF_WORKLOAD}
    result = parplan.plan(job(asked, **of_job), asked[1], **others)
    assert [repr(trial.step_s) if trial.step_s else "" for trial in result.trials] == [
        row["step_s"] for row in rows("out/trials.csv")
    ]
    found = json.loads(Path("out/plan.json").read_text())
    assert parplan.Plan(**found["plan"]) == result.best.plan
    assert found["predicted"]["step_s"] == result.best.step_s
    assert found["predicted"]["memory_bytes_per_stage"] == list(result.best.memory_bytes)


@pytest.mark.parametrize("extra", [(), ("--slow", "1=1.5"), ("--fragmented-share", "0.1")])
def test_simulate(extra: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", *words(OLDER), "--space", "full", "--num-stages", "2", "-o", "out"]) == 0
    capsys.readouterr()
    assert main(["simulate", "out/plan.json", *extra, "-o", "simulated"]) == 0
    said = capsys.readouterr().out
    share = 0.1 if "0.1" in extra else 0.0
    slow = {1: 1.5} if "1=1.5" in extra else None
    run = parplan.simulate(
        job(OLDER), OLDER[1], Path("out/plan.json"), slow=slow, fragmented_share=share
    )
    assert said.startswith(f"{run}\n")
    assert json.loads(run.timeline("own.json").read_text()) == json.loads(
        Path("simulated/timeline.json").read_text()
    )
    peaks: dict[str, float] = {}
    for row in rows("simulated/memory.csv"):
        peaks[row["rank"]] = max(peaks.get(row["rank"], 0.0), float(row["total_bytes"]))
    assert [round(bytes_) for bytes_ in run.memory_bytes] == list(peaks.values())


@pytest.mark.parametrize("software", [None, "megatron"])
def test_landscape(software: str | None, capsys: pytest.CaptureFixture[str]) -> None:
    axes = ("--x", "num_stages=1,2", "--y", "tensor_parallel=1,2")
    extra = () if software is None else ("--software", software)
    assert main(["landscape", *words(OLDER), *axes, *extra, "--workers", "1", "-o", "out"]) == 0
    fields: dict[str, Any] = {} if software is None else {"software": software}
    land = parplan.landscape(
        job(OLDER, **fields), OLDER[1], x="num_stages=1,2", y="tensor_parallel=1,2", workers=1
    )
    assert str(land) == capsys.readouterr().out.rstrip("\n")
    table = csv.DictReader(io.StringIO(land.to_frame().to_csv(index=False)))
    assert list(table) == rows("out/landscape.csv")
    assert land.figure().axes


@pytest.mark.parametrize("to", ["megatron", "torchtitan", "deepspeed"])
def test_export(to: str) -> None:
    run = parplan.simulate(job(DENSE), "8xh100", parplan.Plan(data_parallel=8, zero_stage=1))
    Path("plan.json").write_text(json.dumps(_file(run)))
    assert main(["export", "plan.json", "--to", to, "-o", "out"]) == 0
    found = parplan.export(job(DENSE), "8xh100", "plan.json", to)
    assert found.files
    for name, text in found.files.items():
        assert Path("out", name).read_text() == text


def _file(run: parplan.Run) -> dict[str, Any]:
    from parplan.sim.plan_file import plan_table

    return plan_table(run.plan, run.workload, run.cluster.name)


@pytest.mark.parametrize(
    ("extra", "options"),
    [((), {}), (("--set", "recomputation=full"), {"set": {"recomputation": "full"}})],
)
def test_import(
    extra: tuple[str, ...], options: Mapping[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    run = parplan.simulate(job(DENSE), "8xh100", parplan.Plan(tensor_parallel=2, zero_stage=1))
    files: Callable[..., Any] = parplan.export
    (name, text), *_ = files(run.workload, run.cluster, run.plan, "megatron").files.items()
    Path(name).write_text(text)
    told = ("--from", "megatron", "--cluster", "8xh100")
    assert main(["import", name, *told, *extra, "-o", "out"]) == 0
    launch = parplan.import_launch(name, "megatron", "8xh100", **options)
    assert str(launch) == capsys.readouterr().out.rstrip("\n")
    predicted = json.loads(Path("out/plan.json").read_text())["predicted"]
    assert predicted["step_s"] == launch.step_s
    assert predicted["memory_bytes_per_stage"] == list(launch.memory_bytes)
    assert [repr(one.trial.step_s) for one in launch.better] == [
        row["step_s"] for row in rows("out/better.csv")
    ]


def test_validate(capsys: pytest.CaptureFixture[str]) -> None:
    shipped = VALIDATION.read_text().splitlines(keepends=True)
    Path("runs.jsonl").write_text("".join(shipped[:: len(shipped) // 8]))
    assert main(["validate", "runs.jsonl", "-o", "out"]) == 0
    found = parplan.validate("runs.jsonl")
    assert str(found) == capsys.readouterr().out.rstrip("\n")
    table = csv.DictReader(io.StringIO(found.to_frame().to_csv(index=False)))
    assert list(table) == rows("out/predictions.csv")
    assert any(row["predicted_step_s"] for row in rows("out/predictions.csv"))
