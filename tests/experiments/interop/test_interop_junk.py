"""Files of other software with a value that does not belong there: one clear error, or a plan."""

import contextlib
import copy
import json
import random
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from parplan.errors import ParplanError
from parplan.experiments.interop.importers.convert_hardware import CONVERTERS, ConversionInputs
from parplan.experiments.interop.importers.imported import Given, finished
from parplan.experiments.interop.importers.machine_text import machine_toml
from parplan.experiments.interop.reading.sources import SOURCES
from parplan.hardware.machines.presets import read_cluster
from parplan.sim.models.model import model_preset
from tests.experiments.interop.test_convert_hardware import ASTRA_SIM, CALCULON, SIMUMAX
from tests.experiments.interop.test_export import GOLDEN

JUNK: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 3, 10**30, 1.5, float("nan"), "", "x", "auto", "4", [], [1], ["x"]),
    *({}, {"x": 1}),
)


@contextlib.contextmanager
def one_line() -> Iterator[None]:
    """Lets a mistake pass that is told in one line, and nothing else."""
    try:
        yield
    except ParplanError as error:
        if "\n" in str(error):
            raise AssertionError(f"several lines: {error}") from error


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where values are, the inner ones too."""
    items: Any = value.items() if isinstance(value, dict) else ()
    items = enumerate(value) if isinstance(value, list) else items
    for key, inner in items:
        yield (*path, key)
        yield from places(inner, (*path, key))


def spoilt(table: dict[str, Any], path: tuple[Any, ...], junk: Any) -> dict[str, Any]:
    changed = copy.deepcopy(table)
    place: Any = changed
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = junk
    return changed


def toml_text(table: dict[str, Any]) -> str:
    """Sections of scalars; junk that TOML does not have is left out."""
    lines = []
    for name, section in table.items():
        if not isinstance(section, dict):
            lines.insert(0, f"{name} = {json.dumps(section)}")
            continue
        lines.append(f"[{name}]")
        lines += [
            f"{key} = {json.dumps(value)}"
            for key, value in section.items()
            if value is not None and not isinstance(value, dict)
        ]
    return "\n".join(lines)


def read(source: str, text: str) -> None:
    given = Given(devices=16, model=model_preset("llama3-8b"), seq_len=8192, global_batch=64)
    settings = SOURCES[source](text, "launch", given)
    finished(settings, given, {}, "launch")


@pytest.mark.parametrize("source", ["deepspeed", "torchtitan", "accelerate"])
def test_a_spoilt_configuration_is_a_plan_or_one_clear_error(source: str) -> None:
    name = {"deepspeed": "deepspeed.json", "torchtitan": "torchtitan.toml"}
    text = (GOLDEN / "sharded" / source / name.get(source, "accelerate.yaml")).read_text()
    load = {"deepspeed": json.loads, "torchtitan": tomllib.loads}.get(source, yaml.safe_load)
    dump = {"deepspeed": json.dumps, "torchtitan": toml_text}.get(source, yaml.safe_dump)
    table = load(text)
    rng = random.Random(1)
    for path in places(table):
        for junk in rng.sample(JUNK, 5):
            with one_line():
                read(source, dump(spoilt(table, path, junk)))


def test_a_spoilt_launch_is_a_plan_or_one_clear_error() -> None:
    text = (GOLDEN / "experts" / "megatron" / "megatron.sh").read_text()
    rng = random.Random(0)
    words = text.split(" ")
    for _ in range(150):
        changed = list(words)
        changed[rng.randrange(len(words))] = str(rng.choice(JUNK))
        with one_line():
            read("megatron", " ".join(changed))


@pytest.mark.parametrize("source", CONVERTERS)
def test_a_spoilt_machine_is_a_cluster_or_one_clear_error(source: str, tmp_path: Path) -> None:
    table = {"calculon": CALCULON, "simumax": SIMUMAX}.get(source, yaml.safe_load(ASTRA_SIM))
    accelerator = "h100-sxm" if source == "astra-sim" else None
    path = tmp_path / "made.toml"
    rng = random.Random(2)
    for place in places(table):
        for junk in rng.sample(JUNK, 5):
            asked = ConversionInputs(name="made", file="a", num_nodes=2, accelerator=accelerator)
            with one_line():
                machine = CONVERTERS[source](spoilt(table, place, junk), "a", asked)
                path.write_text(machine_toml(machine))
                read_cluster(path)
