"""Files that no launch is: one clear line, nothing executed, and an end in little time."""

import random
import resource
from pathlib import Path

import pytest

from parplan.errors import ParplanError
from parplan.experiments.cli import main
from parplan.experiments.interop.importers.from_accelerate import read_yaml
from parplan.experiments.interop.importers.imported import Given, finished
from parplan.experiments.interop.python_files.python_config import MAX_STEPS, called, read_python
from parplan.experiments.interop.reading.sources import SOURCES
from parplan.sim.models.model import model_preset
from tests.experiments.interop.test_corpus import FILES
from tests.experiments.interop.test_interop_junk import one_line

SUFFIXES = {"megatron": ".sh", "deepspeed": ".json", "torchtitan": ".toml"}


def read(source: str, text: str, where: str) -> None:
    given = Given(devices=16, model=model_preset("llama3-8b"), seq_len=2048, global_batch=64)
    settings = SOURCES[source](text, where, given)
    finished(settings, given, {}, where)


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_half_a_file_is_a_plan_or_one_line(path: Path) -> None:
    text = path.read_text()
    for share in (0.3, 0.5, 0.8):
        with one_line():
            read(path.parent.name, text[: int(len(text) * share)], str(path))


@pytest.mark.parametrize("source", SOURCES)
def test_what_is_no_text_of_a_launch_is_refused(source: str) -> None:
    binary = random.Random(3).randbytes(4000).decode("latin-1")
    texts = ("", "\0", binary, "[" * 5000, "{" * 5000, "- a\n" * 5000, "a: " * 5000)
    for text in texts:
        with pytest.raises(ParplanError) as error:
            read(source, text, f"launch{SUFFIXES.get(source, '.yaml')}")
        assert "\n" not in str(error.value)
        assert len(str(error.value)) < 1000


def test_aliases_of_yaml_are_counted_before_they_are_written_out() -> None:
    bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n"
    bomb += "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 12))
    bomb += "num_processes: *a11\ndistributed_type: FSDP\n"
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ParplanError, match="more than 200000 values"):
        read_yaml(bomb, "x.yaml")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000
    with pytest.raises(ParplanError, match="more than 200000 values"):
        read_yaml("a: &a [*a]\nnum_processes: 1\n", "x.yaml")
    assert read_yaml("a: &a [1]\nb: *a\n", "x.yaml") == {"a": [1], "b": [1]}


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("    return f()", "without end"),
        ("    x = [1]\n" + "    x = x + x\n" * 60 + "    return T.Config(a=len(x))", ""),
        ("    x = 10 ** 10 ** 10\n    return T.Config(a=x)", ""),
        ("    x = 'a' * 10 ** 12\n    return T.Config(a=x)", ""),
        ("    x = 1\n" * MAX_STEPS + "    return x", "more than"),
    ],
)
def test_python_is_followed_within_bounds(body: str, message: str) -> None:
    file = read_python(f"def f():\n{body}\n", "x.py")
    if not message:
        called(file, "f")
        return
    with pytest.raises(ParplanError, match=message):
        called(file, "f")


def test_nothing_is_executed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    texts = {
        "megatron": "A=$(touch made); `touch made`; eval touch made\ntouch made\n"
        "torchrun pretrain_gpt.py --num-layers $(touch made)\n",
        "torchtitan": "import os\nos.system('touch made')\n\n\ndef f() -> Trainer.Config:\n"
        "    return Trainer.Config(a=os.system('touch made'))\n",
        "accelerate": "distributed_type: !!python/object/apply:os.system ['touch made']\n",
    }
    for source, text in texts.items():
        name = "launch.py" if source == "torchtitan" else "launch.sh"
        Path(name).write_text(text)
        assert main(["import", name, "--from", source, "--cluster", "8xh100"]) == 2
    assert not Path("made").exists()


def test_a_file_that_is_too_long_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("launch.yaml").write_text("a: 1\n" * 1_000_000)
    assert main(["import", "launch.yaml", "--from", "axolotl", "--cluster", "8xh100"]) == 2
    err = capsys.readouterr().err
    assert "longer than the 4000000 characters" in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("source", ["megatron", "maxtext", "transformers", "torchtitan"])
def test_a_hundred_megabytes_are_not_read(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    name = f"launch{SUFFIXES.get(source, '.yaml')}"
    with Path(name).open("wb") as file:
        file.truncate(100_000_000)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert main(["import", name, "--from", source, "--cluster", "8xh100"]) == 2
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 150_000
    assert capsys.readouterr().err.count("\n") == 1


def test_a_hundred_megabytes_beside_a_launch_are_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with Path("large.yml").open("wb") as file:
        file.truncate(100_000_000)
    Path("launch.sh").write_text("source large.yml\ntorchrun pretrain_gpt.py --num-layers 2\n")
    Path("launch.yml").write_text("base_config: large.yml\nper_device_batch_size: 1\n")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for name, source in (("launch.sh", "megatron"), ("launch.yml", "maxtext")):
        assert main(["import", name, "--from", source, "--cluster", "8xh100"]) == 2
        assert capsys.readouterr().err.count("\n") == 1
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 150_000


def test_configurations_that_name_each_other_end(tmp_path: Path) -> None:
    (tmp_path / "a.yml").write_text("base_config: b.yml\nsteps: 1\n")
    (tmp_path / "b.yml").write_text("base_config: a.yml\nmodel_name: llama2-7b\n")
    given = Given(devices=8)
    path = tmp_path / "a.yml"
    settings = SOURCES["maxtext"](path.read_text(), str(path), given)
    assert any("base_config" in name for name in settings.not_understood)
