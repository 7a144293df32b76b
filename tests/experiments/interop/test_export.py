"""Exported configurations are the golden ones; what a target cannot say is said."""

import csv
import json
import os
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest

from parplan.errors import ParplanError
from parplan.experiments.cli import main
from parplan.experiments.interop.exporters.exported import Exported
from parplan.experiments.interop.exporters.launchers import LAUNCH, LAUNCHERS, with_launcher
from parplan.experiments.interop.exporters.targets import TARGETS
from parplan.experiments.interop.megatron_plan import pipeline_layout
from parplan.experiments.interop.reading.read_back import read_back
from parplan.experiments.interop.shell.launch_text import read_flags
from parplan.experiments.interop.shell.script import read_script
from parplan.experiments.interop.torchtitan_settings import flavor_of
from parplan.hardware.machines.presets import cluster_preset
from parplan.sim.models.model import model_preset
from parplan.sim.plan import Plan, check_plan, zero_fields
from parplan.sim.plan_file import plan_table
from parplan.sim.prediction.predict import compile_plan, predict, scheduled
from parplan.sim.programs.instructions import read_program
from tests.experiments.interop.interop_cases import CASES

GOLDEN = Path(__file__).parents[2] / "golden" / "interop"
"""Written by `PARPLAN_WRITE_GOLDEN=1 python -m pytest tests/experiments/interop/test_export.py`."""


def exported(case: str, target: str) -> Exported | ParplanError:
    plan, workload, name = CASES[case]
    cluster = cluster_preset(name)
    check_plan(plan, workload, cluster.num_accelerators)
    try:
        return TARGETS[target](plan, workload, cluster)
    except ParplanError as error:
        return error


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("case", CASES)
def test_files_are_the_golden_ones(case: str, target: str) -> None:
    found = exported(case, target)
    texts = {"refused": f"{found}\n"} if isinstance(found, ParplanError) else dict(found.files)
    if isinstance(found, Exported):
        texts["not_said"] = "".join(f"{line}\n" for line in found.unsaid)
    folder = GOLDEN / case / target
    if os.environ.get("PARPLAN_WRITE_GOLDEN"):
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            (folder / name).write_text(text, encoding="utf-8")
    golden = {path.name: path.read_text(encoding="utf-8") for path in folder.iterdir()}
    assert texts == golden


CHANGED = {
    "num_stages": 8,
    "num_micro_batches": 16,
    "batch_per_device": 2,
    "data_parallel": 8,
    "tensor_parallel": 4,
    "sequence_parallel": False,
    "context_parallel": 4,
    "expert_parallel": 2,
    "expert_tensor_parallel": 2,
    "recomputation": "full",
    "recomputed_ops": ("qkv",),
    "recomputed_layers": 5,
    "recomputed_of_stages": (5, 4, 5, 5, 5, 5, 5, 5),
    "distribute_param": False,
    "distribute_gradient": True,
    "distribute_low_prec_param": True,
    "shard_group": 2,
    "gradient_dtype": "as computed",
    "overlap_gradient_reduction": False,
    "overlap_parameter_gather": False,
    "overlap_tensor_parallel": True,
    "offload_optimizer": True,
    "offload_activations": True,
    "schedule": "looped-bfs",
    "virtual_stages": 3,
    "stage_layers": (11, 13, *[12] * 6),
}

SILENT = {
    # What follows from the other degrees, the batch and the number of processes.
    "megatron": {"num_micro_batches", "data_parallel"},
    "megatron-bridge": {"num_micro_batches", "data_parallel"},
    "deepspeed": {"data_parallel"},
    # FSDP gathers block by block whatever the plan says, which is said in either case.
    "torchtitan": {"overlap_parameter_gather"},
    # What a plan without a pipeline, experts or selective recomputation has no use for.
    "accelerate": {
        *("schedule", "virtual_stages", "stage_layers", "expert_tensor_parallel"),
        "overlap_parameter_gather",
    },
    # What the case, ZeRO-3 alone, has no use for.
    "transformers": {
        *("schedule", "virtual_stages", "sequence_parallel", "overlap_tensor_parallel"),
        "overlap_parameter_gather",
    },
}


@pytest.mark.parametrize("target", TARGETS)
def test_every_field_of_a_plan_is_exported_or_said(target: str) -> None:
    """Another value of any one field changes what is exported or what is said, or is refused."""
    assert set(CHANGED) == set(Plan.__dataclass_fields__)
    cases = {"accelerate": "long-sequences", "transformers": "sharded"}
    case = cases.get(target, "three-dimensions")
    plan, workload, name = CASES[case]
    plan = replace(plan, recomputation="selective", batch_per_device=1)
    cluster = cluster_preset(name)

    def said(other: Plan) -> object:
        try:
            found = TARGETS[target](other, workload, cluster)
        except ParplanError as error:
            return str(error)
        texts = "".join(found.files.values()).splitlines()
        return [line for line in texts if not line.startswith("#")], found.unsaid

    same = {
        field for field, value in CHANGED.items() if said(_with(plan, field, value)) == said(plan)
    }
    assert same == SILENT[target]


def _with(plan: Plan, field: str, value: object) -> Plan:
    if getattr(plan, field) == value:
        other_dtype = "fp32" if value == "as computed" else "as computed"
        value = other_dtype if field == "gradient_dtype" else not value
    needs = {"distribute_gradient": 2, "distribute_low_prec_param": 3}
    fields = zero_fields(needs[field]) if field in needs and value else {field: value}
    if field == "distribute_param" and not value:
        fields = zero_fields(0)
    if field == "distribute_gradient" and not value:
        fields = zero_fields(1)
    if plan.num_stages == 1 and field in ("stage_layers", "recomputed_of_stages"):
        fields = {field: (32,)}
    return replace(plan, **fields)  # type: ignore[arg-type]


def test_a_schedule_without_a_name_comes_as_lists() -> None:
    found = exported("experts", "torchtitan")
    assert isinstance(found, Exported)
    table = tomllib.loads(found.files["torchtitan.toml"])["parallelism"]
    assert table["pipeline_parallel_schedule_csv"] == "schedule.csv"
    program = read_program(found.files["schedule.csv"])
    assert program == scheduled(CASES["experts"][0]).schedule
    parts = table["module_fqns_per_model_part"]
    assert parts[0] == ["tok_embeddings", *(f"layers.{i}" for i in range(14))]
    assert parts[1] == [*(f"layers.{i}" for i in range(14, 27)), "norm", "output"]


@pytest.mark.parametrize(
    ("schedule", "virtual", "name"),
    [
        ("hanayo", 2, "ZBVZeroBubble"),
        ("zb-v", 2, "ZBVZeroBubble"),
        ("zb-h2", 1, "PipelineScheduleMulti"),
    ],
)
def test_stages_lie_as_the_schedule_has_them(schedule: str, virtual: int, name: str) -> None:
    plan, workload, _ = CASES["experts"]
    plan = replace(plan, schedule=schedule, virtual_stages=virtual, stage_layers=None)
    found = TARGETS["torchtitan"](plan, workload, cluster_preset("8xh100"))
    table = tomllib.loads(found.files["torchtitan.toml"])["parallelism"]
    assert table["pipeline_parallel_schedule"] == name
    assert ("pipeline_parallel_schedule_csv" in table) == (schedule != "zb-v")


@pytest.mark.parametrize(
    ("schedule", "virtual", "reason"),
    [("hanayo", 4, "no other number"), ("dualpipe", 1, "each stage is on two ranks")],
)
def test_lists_that_torchtitan_cannot_run_are_refused(
    schedule: str, virtual: int, reason: str
) -> None:
    plan, workload, _ = CASES["experts"]
    plan = replace(plan, schedule=schedule, virtual_stages=virtual, stage_layers=None)
    with pytest.raises(ParplanError, match=reason):
        TARGETS["torchtitan"](plan, workload, cluster_preset("8xh100"))


def test_an_uneven_pipeline_is_megatrons_layout() -> None:
    assert pipeline_layout((2, 3, 1, 0)) == "Et*2|t*3|t|L"


def test_the_command_writes_and_says(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    plan, workload, cluster = CASES["experts"]
    Path("plan.json").write_text(json.dumps(plan_table(plan, workload, cluster)))
    assert main(["export", "plan.json", "--to", "megatron"]) == 0
    out, err = capsys.readouterr()
    assert out.splitlines()[0] == "out/export/megatron.sh"
    assert out.splitlines()[1].startswith("read back for megatron: predicted 0.")
    assert out.endswith("differs: schedule: zb-h1 -> 1f1b\n")
    assert "megatron does not say: schedule zb-h1: there are 1f1b and interleaved-1f1b" in err
    rows = list(csv.DictReader(Path("out/export/not_said.csv").read_text().splitlines()))
    assert rows[0]["field"] == "schedule zb-h1"
    assert main(["export", "plan.json", "--to", "accelerate"]) == 2
    assert "cannot be exported to accelerate: num_stages 2" in capsys.readouterr().err


READ_BACK = {
    ("three-dimensions", "megatron"): set(),
    ("three-dimensions", "megatron-bridge"): set(),
    ("three-dimensions", "torchtitan"): {"recomputed_ops", "distribute_gradient"},
    ("sharded", "transformers"): set(),
    ("sharded", "deepspeed"): set(),
    ("experts", "megatron"): {"schedule"},
    ("long-sequences", "accelerate"): {
        "sequence_parallel",
        "overlap_parameter_gather",
        "overlap_tensor_parallel",
    },
}
"""Fields of the plan that a target's file means otherwise, of some cases."""


@pytest.mark.parametrize(("case", "target"), READ_BACK)
def test_what_is_exported_is_read_back_and_predicted(
    case: str, target: str, tmp_path: Path
) -> None:
    plan, workload, name = CASES[case]
    cluster, found = cluster_preset(name), exported(case, target)
    assert isinstance(found, Exported)
    for file, text in found.files.items():
        (tmp_path / file).write_text(text)
    path = str(tmp_path / next(iter(found.files)))
    back = read_back(found, target, plan, workload, cluster, path)
    names = {line.partition(":")[0] for line in back.differing}
    assert {n for n in names if not n.startswith("workload.")} == READ_BACK[case, target]
    assert back.planned_s == predict(compile_plan(workload, cluster, plan)).step_s
    assert back.step_s == predict(compile_plan(back.workload, cluster, back.plan)).step_s
    assert ("as planned" in str(back)) == (abs(back.step_s / back.planned_s - 1) < 5e-4)


@pytest.mark.parametrize(
    ("schedule", "virtual", "count", "reason"),
    [
        ("1f1b", 1, 2, "1F1B needs at least 4"),
        ("dualpipe-v", 2, 6, "DualPipeV needs at least 8"),
        ("interleaved-1f1b", 2, 9, "needs a multiple of 2"),
    ],
)
def test_what_torch_refuses_is_refused(
    schedule: str, virtual: int, count: int, reason: str
) -> None:
    plan, workload, name = CASES["three-dimensions"]
    other = replace(
        plan, schedule=schedule, virtual_stages=virtual, num_micro_batches=count, stage_layers=None
    )
    batch = replace(workload, global_batch=count * 4)
    with pytest.raises(ParplanError, match=reason):
        TARGETS["torchtitan"](other, batch, cluster_preset(name))


@pytest.mark.parametrize("launcher", LAUNCHERS)
@pytest.mark.parametrize("target", TARGETS)
def test_a_launcher_starts_every_node(launcher: str, target: str) -> None:
    plan, workload, name = CASES["sharded"]
    cluster = cluster_preset(name)
    found = with_launcher(TARGETS[target](plan, workload, cluster), target, cluster, launcher)
    text = found.files[LAUNCH]
    words = {word for command in read_script(text, "launch", {}).commands for word in command}
    joined = " ".join(words)
    assert "NODE_RANK" in text
    assert "MASTER_ADDR" in text
    assert ("srun" in words) == (launcher == "slurm")
    if launcher == "slurm":
        assert "#SBATCH --nodes=2" in text
    if target not in ("megatron", "accelerate"):
        assert "--nnodes 2 --nproc-per-node 8" in text
    assert joined


def test_the_script_of_megatron_takes_the_place_of_its_node() -> None:
    found = exported("sharded", "megatron")
    assert isinstance(found, Exported)
    flags = read_flags(found.files["megatron.sh"], "x", {"TORCHRUN_ARGS": "--nnodes 4"})
    assert flags.launcher["--nnodes"] == "4"
    assert read_flags(found.files["megatron.sh"], "x", {}).launcher["--nnodes"] == "2"


def test_a_model_is_a_flavor_by_its_shape() -> None:
    preset = model_preset("qwen3-14b")
    assert flavor_of(preset) == ("qwen3", "14B")
    assert flavor_of(replace(preset, name="mine", source="config.json")) == ("qwen3", "14B")
    assert flavor_of(replace(preset, name="mine", num_layers=39)) == ("", "")


def test_a_whole_mlp_is_one_module() -> None:
    plan, workload, name = CASES["three-dimensions"]
    ops = ("mlp norm", "mlp up", "mlp activation", "mlp down", "attention")
    found = TARGETS["megatron"](replace(plan, recomputed_ops=ops), workload, cluster_preset(name))
    assert "--recompute-modules mlp layernorm core_attn" in found.files["megatron.sh"]
    assert not any("recomputed_ops" in line for line in found.unsaid)
    half = replace(plan, recomputed_ops=("mlp up", "attention"))
    found = TARGETS["megatron"](half, workload, cluster_preset(name))
    assert "--recompute-modules core_attn" in found.files["megatron.sh"]
    assert any(line.startswith("recomputed_ops mlp up") for line in found.unsaid)
