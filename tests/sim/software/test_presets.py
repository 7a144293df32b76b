"""Named software: every switch has a source and an effect, and names reach a workload."""

import dataclasses
import json
from pathlib import Path

import pytest

from parplan._strict import read_toml
from parplan.errors import ParplanError
from parplan.experiments.cli import main
from parplan.hardware.machines.presets import cluster_preset
from parplan.sim.models.model import model_preset
from parplan.sim.plan import Plan
from parplan.sim.plan_file import plan_table, read_plan
from parplan.sim.prediction.predict import compile_plan, predict
from parplan.sim.software.framework import NO_OVERHEAD, default_framework, expected_framework
from parplan.sim.software.presets import (
    PRESETS,
    SOFTWARE_SWITCHES,
    UNSAID,
    WORKLOAD_SWITCHES,
    names,
    preset,
)
from parplan.sim.workload import Workload, software_of, with_software, workload_of_table

SMALL = {"seq_len": 2048, "global_batch": 8}
EXPECTED = (
    *("megatron", "megatron-bridge", "torchtitan", "fsdp", "deepspeed", "accelerate"),
    *("hf-trainer", "nemo", "maxtext", "zero-bubble", "pytorch"),
)


def test_the_software_that_people_use_has_a_name() -> None:
    assert set(EXPECTED) <= set(names())


@pytest.mark.parametrize("name", names())
def test_every_switch_has_a_source_and_sets_its_field(name: str) -> None:
    found = preset(name)
    workload = Workload("llama2-7b", software=name, **SMALL)
    for field, switch in found.switches.items():
        assert len(switch.source) > 10, field
        owner = workload if field in WORKLOAD_SWITCHES else workload.software
        meant = expected_framework(str(switch.value)) if field == "framework" else switch.value
        assert getattr(owner, field) == meant
    assert "framework" in found.switches


def test_what_is_given_goes_over_what_a_name_stands_for() -> None:
    workload = Workload(
        "llama2-7b", software="hf-trainer", attention="unfused", framework=NO_OVERHEAD, **SMALL
    )
    assert workload.attention == "unfused"
    assert workload.framework is NO_OVERHEAD
    assert not workload.fused_norms
    positional = with_software(Workload("llama2-7b", **SMALL), "hf-trainer")
    assert positional == Workload("llama2-7b", software="hf-trainer", **SMALL)


@pytest.mark.parametrize("name", names())
def test_nothing_is_left_of_other_software(name: str) -> None:
    other = Workload("llama2-7b", software="zero-bubble", **SMALL)
    assert with_software(other, name) == Workload("llama2-7b", software=name, **SMALL)
    defaults = {f.name: f.default for f in dataclasses.fields(Workload)}
    assert {key: defaults[key] for key in UNSAID} == UNSAID


def test_without_a_name_it_is_plain_pytorch() -> None:
    unnamed, named = (
        Workload("llama2-7b", **SMALL),
        Workload("llama2-7b", software="pytorch", **SMALL),
    )
    assert software_of(unnamed) == "pytorch" == software_of(named)
    assert dataclasses.replace(unnamed, framework=named.framework) == named
    assert unnamed.framework == default_framework()
    assert software_of(dataclasses.replace(unnamed, framework=NO_OVERHEAD)) == "pytorch"
    assert software_of(Workload("llama2-7b", framework=NO_OVERHEAD, **SMALL)) == "none"
    odd = dataclasses.replace(named.software, recomputed_head=True)
    assert software_of(dataclasses.replace(named, software=odd)) == "custom"


@pytest.mark.parametrize("words", [["--framework", "eager"], ["--framework=eager"]])
def test_constants_by_name_get_one_line(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    job = ["plan", "gpt3-1.3b", "--cluster", "2xa100", "--seq-len", "512", "--global-batch", "4"]
    assert main([*job, *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("--framework: is part of the software: --software pytorch for eager")
    with pytest.raises(
        ParplanError, match=r"w\.framework: is part of .* \"software\": \"megatron\""
    ):
        workload_of_table({"framework": "fused"}, "w")


def test_an_unknown_name_gets_near_ones(tmp_path: Path) -> None:
    with pytest.raises(ParplanError, match="did you mean megatron"):
        Workload("llama2-7b", software="megatorn", **SMALL)
    with pytest.raises(
        ParplanError, match=r"w\.software: unknown software 'deepsped'; .*deepspeed"
    ):
        workload_of_table({"software": "deepsped"}, "w")


def test_a_plan_file_may_name_its_software(tmp_path: Path) -> None:
    plan = Plan(num_stages=1, num_micro_batches=8, batch_per_device=1, data_parallel=1)
    table = plan_table(plan, Workload("llama2-7b", **SMALL), "1xa100")
    for field in (*WORKLOAD_SWITCHES, "software"):
        del table["workload"][field]
    table["workload"] |= {"software": "torchtitan", "fused_loss": True}
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(table))
    _, workload, _ = read_plan(path)
    named = Workload("llama2-7b", software="torchtitan", fused_loss=True, **SMALL)
    assert dataclasses.replace(workload, model=named.model) == named


def test_a_table_is_read_strictly(tmp_path: Path) -> None:
    path = tmp_path / "presets.toml"
    for body, error in (
        ('about = "x"\nfused_norm = {value = true, source = "s"}', "did you mean fused_norms"),
        ('about = "x"\nfused_norms = {value = true}', "fused_norms: missing key 'source'"),
        ('about = "x"\nfused_norms = {value = true, source = ""}', "needs a source"),
        ('about = "x"\nlike = "b"', "like: expected another table"),
        ('about = "x"\nlike = "a"', "like: expected another table"),
        ('about = "x"\nflat_gradients = {value = "yes", source = "s"}', "flat_gradients"),
        ('about = "x"\nframework = {value = "fuse", source = "s"}', "did you mean fused"),
        ("", "about: expected a text"),
    ):
        path.write_text(f"[a]\n{body}\n")
        with pytest.raises(ParplanError, match=error):
            preset("a", path)


def test_what_a_table_sets_is_not_said_by_the_one_it_is_like() -> None:
    """A value that repeats the base's is said once more only where its source is another one."""
    tables = read_toml(PRESETS)
    for name, table in tables.items():
        base = preset(table["like"]).switches if "like" in table else {}
        for field in set(table) & set(base):
            assert table[field]["source"] != base[field].source, (name, field)


def test_software_changes_what_a_step_takes() -> None:
    """Unfused norms and a gradient that another kernel adds are slower."""
    cluster = cluster_preset("8xh100")
    plan = Plan(num_stages=1, num_micro_batches=1, batch_per_device=1, data_parallel=8)
    took = {
        name: predict(
            compile_plan(Workload("llama2-7b", software=name, **SMALL), cluster, plan)
        ).step_s
        for name in ("pytorch", "hf-trainer", "fsdp")
    }
    assert took["pytorch"] < took["hf-trainer"]
    assert took["pytorch"] < took["fsdp"]


def test_the_command_line_takes_a_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    words = ["plan", "gpt3-1.3b", "--cluster", "2xa100", "--seq-len", "512", "--global-batch", "4"]
    assert main([*words, "--software", "hf-trainer", "-o", str(out)]) == 0
    _, workload, _ = read_plan(out / "plan.json")
    named = Workload("gpt3-1.3b", software="hf-trainer", seq_len=512, global_batch=4)
    assert workload == dataclasses.replace(named, model=workload.model)
    assert workload.model == model_preset("gpt3-1.3b")
    again = ["simulate", str(out / "plan.json"), "--software", "megatron"]
    assert main([*again, "-o", str(tmp_path / "again")]) == 0
    capsys.readouterr()
    assert main([*words, "--software", "hf-trainr", "-o", str(tmp_path / "no")]) != 0
    assert "did you mean hf-trainer" in capsys.readouterr().err


def test_every_switch_of_software_is_reachable_by_name(tmp_path: Path) -> None:
    path = tmp_path / "presets.toml"
    fields = {f.name: f for f in dataclasses.fields(preset("megatron").software)}
    assert set(fields) == set(SOFTWARE_SWITCHES)
    lines = [
        f'{name} = {{ value = {json.dumps(field.default)}, source = "here" }}'
        for name, field in fields.items()
        if field.default is not None
    ]
    lines += [
        f'{name} = {{ value = 0.5, source = "here" }}'
        for name, field in fields.items()
        if field.default is None
    ]
    path.write_text("\n".join(["[mine]", 'about = "x"', *lines]))
    given = {name: 0.5 for name, field in fields.items() if field.default is None}
    assert preset("mine", path).software == type(preset("megatron").software)(**given)
