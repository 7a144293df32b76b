"""The public interface: names, lazy imports, results and runs."""

import ast
import importlib
import inspect
import json
import subprocess
import sys
from pathlib import Path

import pytest

import parplan
from parplan.experiments.cli import main

ROOT = Path(__file__).parents[3]
JOB = ("llama2-7b", "--seq-len", "1024", "--global-batch", "16")
WORKLOAD = parplan.Workload("llama2-7b", seq_len=1024, global_batch=16)


@pytest.fixture(scope="module")
def result() -> parplan.Result:
    return parplan.plan(WORKLOAD, "8xh100", space="full", num_stages=2)


def test_every_public_name_is_there_documented_and_the_one_that_is_typed() -> None:
    tree = ast.parse((ROOT / "parplan" / "__init__.py").read_text())
    typed = {
        alias.asname: (node.module, alias.name)
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("parplan.")
        for alias in node.names
    }
    assert set(parplan.__all__) == {*typed, "__version__"}
    assert parplan.__all__ == sorted(parplan.__all__)
    assert set(parplan.__all__) <= set(dir(parplan))
    for name, (module, attribute) in typed.items():
        value = getattr(parplan, str(name))
        assert value is getattr(importlib.import_module(str(module)), attribute)
        assert inspect.getdoc(value)
    assert parplan.__version__.count(".") == 2
    with pytest.raises(AttributeError, match="no attribute 'plann'"):
        parplan.plann  # type: ignore[attr-defined]  # noqa: B018


def test_importing_it_imports_nothing_else() -> None:
    code = (
        "import sys; import parplan; parplan.ParplanError; parplan.Plan(zero_stage=3);"
        "print([n for n in ('torch', 'pandas', 'matplotlib', 'scipy') if n in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"
    code = "import sys; import parplan; print([n for n in sys.modules if n.startswith('parplan.')])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"


def test_planning_needs_no_torch_and_no_pandas() -> None:
    code = (
        "import sys; import parplan; job = parplan.Workload('gpt-tiny', seq_len=64, "
        "global_batch=8); print(parplan.plan(job, '2xh100').fits);"
        "print([n for n in ('torch', 'pandas') if n in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout.split("\n")[:2] == ["True", "[]"]


def test_a_result_is_the_summary_and_the_files_of_the_command(
    result: parplan.Result,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    options = ("--space", "full", "--num-stages", "2", "-o", "command")
    assert main(["plan", *JOB, "--cluster", "8xh100", *options]) == 0
    said = capsys.readouterr()
    assert said.out == f"{result}\n"
    assert result.save("python") == Path("python")
    names = sorted(path.name for path in Path("command").iterdir())
    assert names == sorted(path.name for path in Path("python").iterdir())
    assert "plan.json" in names
    assert len(names) == 10
    for name in set(names) - {"manifest.json"}:
        assert Path("command", name).read_bytes() == Path("python", name).read_bytes(), name
    json.loads(Path("python/manifest.json").read_text())


def test_a_result_has_its_trials_as_a_table(result: parplan.Result) -> None:
    frame = result.to_frame()
    assert len(frame) == len(result.trials) > 100
    assert frame["step_s"].min() == result.best.step_s
    assert (frame["verdict"] == "fits").sum() == result.report.num_possible
    shown = result._repr_html_()
    assert "<table" in shown
    assert shown.count("<tr") == 11
    assert "tokens/s" in shown
    assert repr(result) == (
        f"<Result: llama2-7b on 8xh100: {result.best.step_s:.4g} s, {len(result.trials):,} trials>"
    )


def test_a_result_without_a_plan_says_the_closest_one(tmp_path: Path) -> None:
    job = parplan.Workload("llama3-70b", seq_len=4096, global_batch=8)
    result = parplan.plan(job, "8xa100-40gb")
    assert not result.fits
    assert "no candidate is possible; the closest: " in str(result)
    assert "no plan fits" in repr(result)
    assert "<table" not in result._repr_html_()
    with pytest.raises(parplan.ParplanError, match="no candidate is possible"):
        result.best  # noqa: B018
    result.save(tmp_path / "none")
    assert (tmp_path / "none" / "trials.csv").exists()
    assert not (tmp_path / "none" / "plan.json").exists()


def test_a_search_by_a_planner_keeps_its_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = parplan.plan(WORKLOAD, "8xh100", planner="random", budget=40, seed=3)
    assert len(result.trials) == 40
    result.save(tmp_path / "out")
    lines = (tmp_path / "out" / "search.jsonl").read_text().splitlines()
    assert len(lines) == 41
    options = ("--space", "full", "--planner", "random", "--budget", "60", "--seed", "3")
    out = ("-o", str(tmp_path / "out"), "--resume")
    assert main(["plan", *JOB, "--cluster", "8xh100", *options, *out]) == 0


def test_a_planner_that_fails_is_an_error() -> None:
    def broken(space: object, evaluate: object, rng: object) -> None:
        raise ZeroDivisionError("oh")

    with pytest.raises(parplan.RunFailedError, match="planner broken: failed: ZeroDivisionError"):
        parplan.plan(WORKLOAD, "8xh100", planner=broken, budget=5)


def test_a_run_has_its_numbers_picture_and_timeline(tmp_path: Path) -> None:
    plan = parplan.Plan(tensor_parallel=2, num_stages=2, zero_stage=1)
    run = parplan.simulate(WORKLOAD, "8xh100", plan)
    assert run.plan.data_parallel == 2
    assert run.plan.num_micro_batches == 8
    assert run.plan.zero_stage == 1
    assert run.peak_memory_bytes == max(run.memory_bytes)
    assert len(run.memory_bytes) == 2
    assert run.fits
    assert str(run).startswith(f"step {run.step_s:.4g} s, bubble {run.bubble:.1%}")
    assert repr(run).startswith("<Run: llama2-7b on 8xh100: step ")
    assert len(run.to_frame()) == len(run.run.events)
    assert run.figure().axes
    events = json.loads(run.timeline(tmp_path / "timeline.json").read_text())["traceEvents"]
    assert len(events) > len(run.run.events)
    slow = parplan.simulate(WORKLOAD, "8xh100", plan, slow={0: 2.0})
    assert "with slow ranks (0 x 2 of 8)" in str(slow)


def test_a_plan_that_says_everything_is_not_completed() -> None:
    plan = parplan.Plan(data_parallel=8, num_micro_batches=2)
    assert parplan.simulate(WORKLOAD, "8xh100", plan).plan == plan
    with pytest.raises(parplan.ParplanError, match="= 4 devices, but the cluster has 8"):
        parplan.simulate(WORKLOAD, "8xh100", parplan.Plan(data_parallel=4, num_micro_batches=4))


def test_zero_stages_are_the_three_fields() -> None:
    for stage in range(4):
        plan = parplan.Plan(zero_stage=stage)
        assert plan.zero_stage == stage
        assert plan.distribute_param == (stage > 0)
        assert plan.distribute_gradient == (stage > 1)
        assert plan.distribute_low_prec_param == (stage > 2)


def test_names_paths_and_values_mean_the_same(tmp_path: Path) -> None:
    by_value = parplan.Workload(parplan.model("llama2-7b"), seq_len=1024, global_batch=16)
    assert by_value == WORKLOAD
    (tmp_path / "own.toml").write_text(
        "[own]\nnum_layers = 4\nhidden_size = 256\nnum_heads = 4\nnum_kv_heads = 4\n"
        'ffn_hidden_size = 1024\nvocab_size = 1000\nsource = "a test"\n'
    )
    machine = parplan.cluster("8xh100")
    plan = parplan.Plan(data_parallel=8, num_micro_batches=2)
    found = {
        parplan.simulate(job, on, plan).step_s
        for job in (by_value, WORKLOAD)
        for on in ("8xh100", machine)
    }
    assert len(found) == 1
