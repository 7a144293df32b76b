"""Launches of other software become plans; what is exported comes back."""

import csv
import dataclasses
import json
from pathlib import Path

import pytest

from parplan.errors import ParplanError
from parplan.experiments.cli import main
from parplan.experiments.interop.exporters.targets import TARGETS
from parplan.experiments.interop.importers.from_megatron import layers_of_layout
from parplan.experiments.interop.importers.imported import Given, finished
from parplan.experiments.interop.reading.sources import SOURCES
from parplan.experiments.interop.shell.launch_text import read_flags
from parplan.hardware.machines.presets import cluster_preset
from parplan.planners.explain.faster_neighbours import better_plans, changes_between
from parplan.sim.models.model import Model, model_preset
from parplan.sim.plan import Plan
from parplan.sim.plan_file import read_plan
from parplan.sim.prediction.predict import compile_plan, predict
from parplan.sim.software.habits import Software
from parplan.sim.workload import Workload
from tests.experiments.interop.interop_cases import CASES

SCRIPT = """#!/bin/bash
# Someone's launch; don't run it.
GPUS=8 NODES=${SLURM_NNODES:-2}
TP=4
MODEL_ARGS=(
    --num-layers 24 --hidden-size 2048   # a small one
    --num-attention-heads 16
    --seq-length 2048 --max-position-embeddings 2048
)
OLD_STYLE="--bf16 --vocab-size=51200
    --recompute-activations"
torchrun --nproc_per_node $GPUS --nnodes ${NODES} pretrain_gpt.py ${MODEL_ARGS[@]} $OLD_STYLE \\
    --tensor-model-parallel-size $TP --sequence-parallel \\
    --pipeline-model-parallel-size 2 --num-layers-per-virtual-pipeline-stage 6 \\
    --micro-batch-size 1 --global-batch-size $((GPUS * 4)) \\
    --use-distributed-optimizer --overlap-grad-reduce --fp8-param-gather --lr 1e-4
"""


def imported(
    source: str, text: str, given: Given, changed: dict[str, str] | None = None
) -> tuple[Plan, Workload, list[str]]:
    settings = SOURCES[source](text, "launch", given)
    plan, workload = finished(settings, given, changed or {}, "launch")
    return plan, workload, settings.notes


def test_a_launch_script_is_read_with_its_variables_and_arrays() -> None:
    plan, workload, notes = imported("megatron", SCRIPT, Given(devices=16))
    assert plan == Plan(
        num_stages=2,
        virtual_stages=2,
        schedule="interleaved-1f1b",
        tensor_parallel=4,
        sequence_parallel=True,
        data_parallel=2,
        num_micro_batches=16,
        recomputation="selective",
        distribute_param=True,
        gradient_dtype="fp32",
    )
    assert (workload.seq_len, workload.global_batch, workload.precision) == (2048, 32, "bf16")
    model = workload.model
    assert (model.num_layers, model.ffn_size, model.vocab_size) == (24, 8192, 51200)
    assert model.tied_embeddings
    assert model.learned_positions == 2048
    assert "--fp8-param-gather: not modelled: parameters are gathered in 16 bits" in notes
    settings = SOURCES["megatron"](SCRIPT, "launch", Given(devices=16))
    assert settings.no_effect == {"--lr": "learning rate"}
    assert list(settings.not_understood) == ["--fp8-param-gather"]


@pytest.mark.parametrize(
    ("flags", "software"),
    [
        ("--moe-enable-deepep", Software(expert_dispatch="nodes")),
        ("--moe-flex-dispatcher-backend hybridep", Software(expert_dispatch="nodes")),
        ("--overlap-moe-expert-parallel-comm", Software(overlap_expert_exchange=True)),
        ("--cuda-graph-impl full_iteration", Software(step_graph=True)),
        ("--cuda-graph-impl local --cuda-graph-scope full_iteration", Software(step_graph=True)),
        ("--cuda-graph-impl none --cuda-graph-scope full_iteration", Software()),
        ("--no-gradient-accumulation-fusion", Software(fused_gradient_accumulation=False)),
    ],
)
def test_habits_of_the_software_are_read(flags: str, software: Software) -> None:
    _, workload, notes = imported("megatron", f"{SCRIPT.strip()} {flags}", Given(devices=16))
    assert workload.software == software
    assert not any(flags.split()[0] in note for note in notes)


def test_other_graphs_of_kernels_are_told() -> None:
    text = f"{SCRIPT.strip()} --cuda-graph-impl transformer_engine --cuda-graph-scope attn"
    _, workload, notes = imported("megatron", text, Given(devices=16))
    assert not workload.software.step_graph
    assert "--cuda-graph-impl transformer_engine: launching is that of --software" in notes


def test_variables_of_the_user_go_first_and_missing_ones_are_named() -> None:
    text = "x --tensor-model-parallel-size $TP --micro-batch-size ${MBS}"
    flags = read_flags(text, "launch", {"TP": "8"})
    assert flags.number("--tensor-model-parallel-size") == 8
    with pytest.raises(ParplanError, match=r"launch: --micro-batch-size: \$MBS is not set"):
        flags.number("--micro-batch-size")


SAME = [
    ("three-dimensions", "megatron", {}, set()),
    ("sharded", "megatron", {}, set()),
    # What the target cannot say is lost: the schedule.
    ("experts", "megatron", {}, {"schedule"}),
    ("sharded", "deepspeed", {"recomputation": "full", "shard_group": "8"}, set()),
    (
        "experts",
        "deepspeed",
        {"num_stages": "2", "expert_parallel": "4"},
        {"schedule"},
    ),
    ("sharded", "torchtitan", {}, {"overlap_parameter_gather"}),
    (
        "three-dimensions",
        "torchtitan",
        {"recomputed_ops": '["attention"]'},
        {"distribute_gradient"},
    ),
    ("sharded", "accelerate", {"gradient_dtype": "fp32"}, {"overlap_parameter_gather"}),
]


@pytest.mark.parametrize(("case", "target", "changed", "lost"), SAME)
def test_what_is_exported_comes_back(
    case: str, target: str, changed: dict[str, str], lost: set[str]
) -> None:
    plan, workload, name = CASES[case]
    cluster = cluster_preset(name)
    (text, *_) = TARGETS[target](plan, workload, cluster).files.values()
    given = Given(
        devices=cluster.num_accelerators,
        model=None if target == "megatron" else workload.model,
        seq_len=None if target in ("megatron", "torchtitan") else workload.seq_len,
        global_batch=workload.global_batch if target == "accelerate" else None,
        micro_batch=plan.batch_per_device if target == "accelerate" else None,
    )
    found, back, _ = imported(target, text, given, changed)
    before, after = plan.to_json(), found.to_json()
    # Where it has no effect, it may be anything.
    same_layers = plan.layers_of_stages(workload.model.num_layers) == found.layers_of_stages(
        workload.model.num_layers
    )
    if same_layers:
        after["stage_layers"] = before["stage_layers"]
    assert {key for key in before if before[key] != after[key]} == lost
    assert (back.seq_len, back.global_batch) == (workload.seq_len, workload.global_batch)
    if target == "megatron":
        compared = ("name", "source", "vocab_size", "learned_positions")
        assert _without(back.model, compared) == _without(workload.model, compared)


def _without(model: Model, names: tuple[str, ...]) -> dict[str, object]:
    table = dataclasses.asdict(model)
    table["head_dim"] = model.head_size
    return {key: value for key, value in table.items() if key not in names}


def test_a_layout_is_read_with_repetitions() -> None:
    assert layers_of_layout("E|(t|)*3,m|m||L", "launch") == (0, 1, 1, 1, 0, 0, 0, 0)
    assert layers_of_layout("Et*14|t*13L", "launch") == (14, 13)
    with pytest.raises(ParplanError, match="cannot be read"):
        layers_of_layout("Ex|t", "launch")
    with pytest.raises(ParplanError, match="cannot be read"):
        layers_of_layout("((t*9999)*9999)*9999", "launch")


def test_layers_of_the_ends_are_megatrons() -> None:
    virtual = "--num-layers-per-virtual-pipeline-stage 6"
    last = SCRIPT.replace(virtual, "--decoder-last-pipeline-num-layers 10")
    plan, _, _ = imported("megatron", last, Given(devices=16))
    assert (plan.stage_layers, plan.virtual_stages) == ((14, 10), 1)
    ends = "--account-for-embedding-in-pipeline-split --account-for-loss-in-pipeline-split"
    four = SCRIPT.replace(virtual, ends).replace("-size 2", "-size 4").replace("24", "26")
    plan, _, _ = imported("megatron", four, Given(devices=16))
    assert plan.stage_layers == (6, 7, 7, 6)


def test_deepspeed_completes_its_batches() -> None:
    model = model_preset("llama3-8b")
    given = Given(devices=8, model=model, seq_len=4096)
    table = {
        "train_micro_batch_size_per_gpu": 2,
        "gradient_accumulation_steps": 4,
        "zero_optimization": {"stage": 2, "overlap_comm": True, "offload_param": {"device": "cpu"}},
        "bf16": {"enabled": True},
    }
    plan, workload, notes = imported("deepspeed", json.dumps(table), given)
    assert (workload.global_batch, plan.num_micro_batches, plan.zero_stage) == (64, 4, 2)
    assert "zero_optimization.offload_param: not modelled: parameters stay on the device" in notes
    with pytest.raises(ParplanError, match="stage: 0 to 3, got 5"):
        imported("deepspeed", '{"zero_optimization": {"stage": 5}}', given)


def test_torchtitan_spreads_layers_as_it_does() -> None:
    text = """
[model]
name = "llama3"
flavor = "8B"
[training]
local_batch_size = 8
seq_len = 8192
[parallelism]
pipeline_parallel_degree = 4
pipeline_parallel_schedule = "Interleaved1F1B"
[activation_checkpoint]
mode = "selective"
selective_ac_option = "2"
"""
    plan, workload, _ = imported("torchtitan", text, Given(devices=16))
    # 34 with the two ends, on eight stages: 5 5 4 4 4 4 4 4, less one at each end.
    assert plan.stage_layers == (4, 5, 4, 4, 4, 4, 4, 3)
    assert (plan.virtual_stages, plan.zero_stage, plan.data_parallel) == (2, 2, 4)
    assert (workload.global_batch, plan.num_micro_batches) == (32, 8)
    assert plan.recomputed_layers == 2
    assert workload.model == model_preset("llama3-8b")
    with pytest.raises(ParplanError, match=r"flavor 'llama3 9B'; did you mean llama3 8B"):
        imported("torchtitan", text.replace("8B", "9B"), Given(devices=16))


@pytest.mark.parametrize(
    ("text", "fields"),
    [
        (
            "distributed_type: FSDP\nnum_machines: 2\nfsdp_config: {fsdp_sharding_strategy: "
            "HYBRID_SHARD, fsdp_activation_checkpointing: true}",
            {"zero_stage": 3, "sharded_over": 8, "recomputation": "full"},
        ),
        (
            "distributed_type: FSDP\nfsdp_config: {fsdp_version: 2, "
            "fsdp_reshard_after_forward: false}\nparallelism_config: "
            "{parallelism_config_tp_size: 4, parallelism_config_dp_replicate_size: 2}",
            {"zero_stage": 2, "tensor_parallel": 4, "sharded_over": 2},
        ),
        (
            "distributed_type: DEEPSPEED\ndeepspeed_config: {zero_stage: 2, "
            "gradient_accumulation_steps: 4, offload_optimizer_device: cpu}",
            {"zero_stage": 2, "num_micro_batches": 4, "offload_optimizer": True},
        ),
        (
            "distributed_type: MEGATRON_LM\nmegatron_lm_config: {megatron_lm_tp_degree: 2, "
            "megatron_lm_pp_degree: 4, megatron_lm_num_micro_batches: 8, "
            "megatron_lm_recompute_activations: true, megatron_lm_sequence_parallelism: true}",
            {"num_stages": 4, "tensor_parallel": 2, "num_micro_batches": 8, "zero_stage": 0},
        ),
        ("distributed_type: MULTI_GPU", {"zero_stage": 0, "data_parallel": 16}),
    ],
)
def test_all_kinds_of_accelerates_yaml_are_read(text: str, fields: dict[str, object]) -> None:
    head = "num_processes: 16\nmixed_precision: bf16\n"
    given = Given(devices=16, model=model_preset("llama3-8b"), seq_len=2048)
    plan, workload, _ = imported("accelerate", head + text, given)
    assert {name: getattr(plan, name) for name in fields} == fields
    assert workload.precision == "bf16"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("distributed_type: TPU", "distributed_type: TPU is not known here"),
        ("distributed_type: FSDP\nmixed_precision: int4", "int4 is not one of no, bf16"),
        ("- a list", "expected a table, got list"),
        (
            "distributed_type: DEEPSPEED\ndeepspeed_config: {deepspeed_config_file: ds.json}",
            "ds.json",
        ),
    ],
)
def test_yaml_that_cannot_be_read_is_one_line(text: str, message: str) -> None:
    given = Given(devices=16, model=model_preset("llama3-8b"), seq_len=2048)
    with pytest.raises(ParplanError, match=message):
        imported("accelerate", text, given)


def test_better_plans_are_told_by_how_much_they_change() -> None:
    plan, workload, name = CASES["experts"]
    plan = dataclasses.replace(plan, gradient_dtype="fp32")
    cluster = cluster_preset(name)
    step_s = predict(compile_plan(workload, cluster, plan)).step_s
    better, tried = better_plans(workload, cluster, plan, step_s)
    assert tried > 1000
    counts = [len(found.changes) for found in better]
    times = [found.trial.step_s or 0.0 for found in better]
    assert counts == sorted(set(counts))
    assert times == sorted(times, reverse=True)
    assert times[0] < step_s
    for found in better:
        assert found.trial.plan.gradient_dtype == "fp32"
        assert changes_between(plan, found.trial.plan) == found.changes
        own_s = predict(compile_plan(workload, cluster, found.trial.plan)).step_s
        assert own_s == found.trial.step_s


def test_the_command_predicts_and_names_a_better_plan(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("launch.sh").write_text(SCRIPT)
    assert main(["import", "launch.sh", "--from", "megatron", "--cluster", "16xa100"]) == 0
    out, err = capsys.readouterr()
    lines = out.splitlines()
    head = "of a launch that was only partly understood (not understood: --fp8-param-gather):"
    assert lines.pop(0) == head
    assert lines[0].startswith("present plan: DP 2 · TP 4")
    assert lines[1].startswith("predicted step ")
    assert lines[2].startswith("memory: ")
    assert lines[3].startswith("nearest better plan: ")
    assert "parplan: no effect on time or memory: --lr (learning rate)" in err
    assert "parplan: --fp8-param-gather" in err
    plan, _, cluster = read_plan(Path("out/import/plan.json"))
    assert (plan.tensor_parallel, cluster) == (4, "16xa100")
    (first, *_) = csv.DictReader(Path("out/import/better.csv").read_text().splitlines())
    assert first["what"] in lines[3]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--cluster", "12xa100"], "tensor_parallel 4 x num_stages 2 x context_parallel 1 = 8"),
        (["--cluster", "16xa100", "--strict"], "--strict: not understood: --fp8-param-gather"),
        (["--cluster", "16xa100", "--set", "tensor_parallel"], "is not NAME=VALUE"),
        (["--cluster", "16xa100", "--set", "data_parallel=4"], "not a field of a plan that can"),
        (["--cluster", "16xa100", "--global-batch", "33"], "33 does not divide over 2 data"),
    ],
)
def test_mistakes_are_one_line(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("launch.sh").write_text(SCRIPT)
    assert main(["import", "launch.sh", "--from", "megatron", *arguments]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1
