"""Random plans go to every target and back: what comes back otherwise was said."""

import json
import re
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from parplan.errors import ParplanError
from parplan.experiments.interop.exporters.targets import TARGETS
from parplan.experiments.interop.importers.imported import Given, finished
from parplan.experiments.interop.reading.read_back import differing, meaning_of, read_back
from parplan.experiments.interop.reading.sources import SOURCES
from parplan.hardware.machines.presets import cluster_preset
from parplan.sim.models.model import model_preset
from parplan.sim.plan import Plan, check_plan, zero_fields
from parplan.sim.prediction.predict import compile_plan
from parplan.sim.software.framework import NO_OVERHEAD
from parplan.sim.workload import Workload
from tests.experiments.interop.test_corpus import FILES

CLUSTER = cluster_preset("16xh100")
SCHEDULES = ("1f1b", "gpipe", "interleaved-1f1b", "zb-h1", "zb-v", "dualpipe-v")
MODELS = ("llama3.2-1b", "deepseek-v2-lite", "gpt3-125m")


@st.composite
def plans(draw: st.DrawFn) -> tuple[Plan, Workload]:
    """A plan for 16 accelerators and its workload."""
    model = model_preset(draw(st.sampled_from(MODELS)))
    stages, tensor = draw(st.sampled_from([1, 1, 2, 4])), draw(st.sampled_from([1, 2, 4]))
    context = draw(st.sampled_from([1, 1, 2]))
    assume(stages * tensor * context <= 16)
    data = 16 // (stages * tensor * context)
    schedule = draw(st.sampled_from(SCHEDULES)) if stages > 1 else "1f1b"
    virtual = 2 if schedule in ("interleaved-1f1b", "zb-v", "dualpipe-v") else 1
    count, micro = draw(st.sampled_from([1, 2, 4, 8, 16])), draw(st.sampled_from([1, 2]))
    recomputation = draw(st.sampled_from(["none", "selective", "full"]))
    fields: dict[str, Any] = {
        "num_stages": stages,
        "tensor_parallel": tensor,
        "sequence_parallel": tensor > 1 and draw(st.booleans()),
        "context_parallel": context,
        "data_parallel": data,
        "expert_parallel": draw(st.sampled_from([1, 2])) if model.moe and data > 1 else 1,
        "schedule": schedule,
        "virtual_stages": virtual,
        "num_micro_batches": count,
        "batch_per_device": micro,
        "recomputation": recomputation,
        "recomputed_ops": draw(st.sampled_from([("attention",), ("attention norm", "mlp norm")])),
        "recomputed_layers": draw(st.sampled_from([None, 1, 2]))
        if recomputation == "full"
        else None,
        "gradient_dtype": draw(st.sampled_from(["as computed", "fp32"])),
        "overlap_gradient_reduction": draw(st.booleans()),
        "overlap_parameter_gather": draw(st.booleans()),
        "overlap_tensor_parallel": tensor > 1 and draw(st.booleans()),
        "offload_optimizer": draw(st.booleans()),
        **zero_fields(draw(st.sampled_from([0, 1, 2, 3]))),
    }
    workload = Workload(
        model=model,
        seq_len=1024,
        global_batch=data * count * micro,
        precision=draw(st.sampled_from(["bf16", "fp16", "fp32", "fp8"])),
        optimizer=draw(st.sampled_from(["adamw", "sgd"])),
        framework=NO_OVERHEAD,
    )
    try:
        plan = Plan(**fields)
        check_plan(plan, workload, 16)
        compile_plan(workload, CLUSTER, plan)
    except ParplanError:
        assume(False)
    return plan, workload


def named(lines: tuple[str, ...]) -> set[str]:
    """The fields that lines about what a target does not say are of."""
    words = {word for line in lines for word in re.findall(r"[a-z_]+", line.partition(": ")[0])}
    more = {
        "distribute_param": {"distribute_gradient"},
        "distribute_gradient": {"distribute_low_prec_param", "distribute_param"},
        "recomputed_layers": {"recomputation"},
        "recomputed_ops": {"recomputation"},
        "schedule": {"virtual_stages", "stage_layers"},
    }
    return words | {other for word in words for other in more.get(word, ())}


WITHOUT_EFFECT = {
    "gradient_dtype": lambda plan: plan.replicas == 1,
    "overlap_gradient_reduction": lambda plan: plan.replicas == 1,
    "overlap_parameter_gather": lambda plan: plan.replicas == 1 or plan.zero_stage in (0, 3),
    "distribute_param": lambda plan: plan.replicas == 1,
    "distribute_gradient": lambda plan: plan.replicas == 1,
    "distribute_low_prec_param": lambda plan: plan.replicas == 1,
}
"""Where a field has none, a target need not say it."""


@pytest.mark.parametrize("target", TARGETS)
@settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)
@given(found=plans())
def test_what_comes_back_otherwise_was_said(target: str, found: tuple[Plan, Workload]) -> None:
    plan, workload = found
    try:
        exported = TARGETS[target](plan, workload, CLUSTER)
    except ParplanError:
        return
    with tempfile.TemporaryDirectory() as folder:
        for name, text in exported.files.items():
            (Path(folder) / name).write_text(text)
        path = str(Path(folder) / next(iter(exported.files)))
        back = read_back(exported, target, plan, workload, CLUSTER, path)
    differing = {line.partition(":")[0] for line in back.differing} - {"workload.software"}
    differing = {name.removeprefix("workload.") for name in differing}
    silent = {name for name, idle in WITHOUT_EFFECT.items() if idle(plan)}
    assert differing - silent <= named(exported.unsaid) | {"attention", "fused_norms"}
    if not differing:
        meant = replace(back.workload, software=workload.software)
        again = TARGETS[target](back.plan, meant, CLUSTER)
        assert again.files == exported.files


FOREIGN = [
    path
    for path in FILES
    if "refused" not in json.loads(path.with_name(f"{path.name}.reading").read_text())
]


@pytest.mark.parametrize("path", FOREIGN, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_a_foreign_launch_comes_back_or_is_said_otherwise(path: Path, tmp_path: Path) -> None:
    """import -> export -> import, for every target that takes the plan."""
    said = json.loads(path.with_name(f"{path.name}.reading").read_text())["given"]
    try:
        plan, workload = meant_by(path, said)
        cluster = cluster_preset(f"{plan.num_devices}xh100")
        check_plan(plan, workload, plan.num_devices)
    except ParplanError:
        pytest.skip("no cluster of so many devices")
    for target, export in TARGETS.items():
        try:
            exported = export(plan, workload, cluster)
        except ParplanError:
            continue
        for name, text in exported.files.items():
            (tmp_path / name).write_text(text)
        where = str(tmp_path / next(iter(exported.files)))
        found, meant = meaning_of(exported, target, plan, workload, cluster, where)
        lines = differing(plan, found, workload, meant)
        fields = {line.partition(":")[0].removeprefix("workload.") for line in lines}
        silent = {name for name, idle in WITHOUT_EFFECT.items() if idle(plan)} | {"software"}
        assert fields - silent <= named(exported.unsaid) | {"attention", "fused_norms"}, target


def meant_by(path: Path, said: dict[str, Any]) -> tuple[Plan, Workload]:
    """The plan and the workload of a file of the corpus."""
    model = said.get("model")
    own = Given(
        devices=said.get("devices", 16),
        model=None if model is None else model_preset(model),
        **{name: value for name, value in said.items() if name not in ("devices", "model", "set")},
    )
    settings_of = SOURCES[path.parent.name](path.read_text(), str(path), own)
    return finished(settings_of, own, said.get("set", {}), str(path))


def test_the_numbers_of_a_model_come_back_from_megatron() -> None:
    workload = Workload(model=model_preset("qwen3-8b"), seq_len=4096, global_batch=16)
    plan = Plan(data_parallel=16)
    for target in ("megatron", "megatron-bridge"):
        found = TARGETS[target](plan, workload, CLUSTER)
        name, text = next(iter(found.files.items()))
        model = SOURCES[target](text, name, Given(devices=16, model=None, vocab_size=151936)).model
        assert model is not None
        assert (model.rope_theta, model.norm_epsilon) == (1e6, 1e-6)
