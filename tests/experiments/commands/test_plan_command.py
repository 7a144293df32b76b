"""`parplan plan`: AP's log and dump, the files it writes, its options and its refusals."""

import csv
import json
import os
import re
from pathlib import Path

import pytest

from parplan.experiments.cli import main
from parplan.sim.analysis.residuals import read_residuals
from parplan.sim.plan_file import read_plan
from tests.commands import parplan

REFERENCE = (
    *("plan", "llama2-13b", "--cluster", "4xLarge.2048GB"),
    *("--seq-len", "1024", "--global-batch", "64", "--space", "ap"),
)
DUMP = "advanced_parallelization_selected_config.dump"

AP_LOG = [
    r"Got DBs from backend for auto config\.",
    r"The number of candidates is 30\.",
    r"Parallel Graph Compile start\.\.\.",
    r"Elapsed Time to compile all candidates = \d+ \[ms\]",
    r"Parallel Graph Compile finished\.",
    r"The number of possible candidates is (\d+)\.",
    r"SelectBestGraphFromCandidates start\.\.\.",
    r"Elapsed Time to compute cost for survived candidates = \d+ \[ms\]",
    r"SelectBestGraphFromCandidates finished\.",
    r"Configuration for parallelism is selected\.",
    r"(No PP|num_stages : \d+, num_micro_batches : \d+, batch_per_device : \d+), No TP, "
    r"recomputation : [012], distribute_param : (true|false), "
    r"distribute_low_prec_param : (true|false)",
    r"train: true",
]


@pytest.fixture(scope="module")
def planned(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("plan")
    done = parplan(*REFERENCE, "-o", "results", cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder, done.stdout


def trials(folder: Path) -> list[dict[str, str]]:
    with (folder / "results" / "trials.csv").open() as file:
        return list(csv.DictReader(file))


def test_the_log_is_aps_line_for_line(planned: tuple[Path, str]) -> None:
    lines = planned[1].splitlines()
    assert len(lines) == len(AP_LOG)
    for line, pattern in zip(lines, AP_LOG, strict=True):
        assert re.fullmatch(rf"\[info\] {pattern}", line), line


def test_the_dump_is_the_selected_line_alone(planned: tuple[Path, str]) -> None:
    folder, log = planned
    assert (folder / DUMP).read_text() == log.splitlines()[-2].removeprefix("[info] ") + "\n"


def test_every_candidate_is_in_the_table(planned: tuple[Path, str]) -> None:
    folder, log = planned
    rows = trials(folder)
    assert len(rows) == 30
    possible = [row for row in rows if row["verdict"] == "fits"]
    # AP's releases up to 24.3 count pipelines with one micro-batch size once.
    counted = {
        row["batch_per_device"] if row["num_stages"] != "1" else row["candidate"] + " without"
        for row in possible
    }
    assert f"possible candidates is {len(counted)}." in log
    assert {row["default_stack_verdict"] for row in rows} == {"fits"}
    assert all(bool(row["reason"]) != (row["verdict"] == "fits") for row in rows)
    for row in rows:
        stages = row["memory_bytes_per_stage"].split()
        assert len(stages) == int(row["num_stages"])


def test_the_plan_is_the_fastest_of_the_table(planned: tuple[Path, str]) -> None:
    folder, _ = planned
    plan, workload, cluster = read_plan(folder / "results" / "plan.json")
    best = min((r for r in trials(folder) if r["step_s"]), key=lambda row: float(row["step_s"]))
    fields = {k: "" if v is None else str(v) for k, v in plan.to_json().items()}
    fields["recomputed_ops"] = " + ".join(plan.recomputed_ops)
    assert fields == {k: best[k] for k in fields}
    assert (workload.model.name, workload.seq_len, cluster) == (
        "llama2-13b",
        1024,
        "4xLarge.2048GB",
    )
    predicted = json.loads((folder / "results" / "plan.json").read_text())["predicted"]
    assert predicted["step_s"] == float(best["step_s"])


def test_the_pictures_and_the_timeline(planned: tuple[Path, str]) -> None:
    results = planned[0] / "results"
    for name in ("gantt.png", "landscape.png", "time_split.png"):
        assert (results / name).read_bytes().startswith(b"\x89PNG")
    events = json.loads((results / "timeline.json").read_text())["traceEvents"]
    assert any(e["ph"] == "X" for e in events)


def rows(folder: Path, name: str) -> list[dict[str, str]]:
    with (folder / "results" / name).open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_time_of_the_step_is_split(planned: tuple[Path, str]) -> None:
    folder = planned[0]
    predicted = json.loads((folder / "results" / "plan.json").read_text())["predicted"]
    parts = rows(folder, "time_split.csv")
    plans = list(dict.fromkeys(row["plan"] for row in parts))
    assert len(plans) > 1
    own = [float(row["seconds"]) for row in parts if row["plan"] == plans[0]]
    assert min(own) >= 0
    assert sum(own) == pytest.approx(predicted["step_s"])


def test_every_change_of_the_plan_has_its_price(planned: tuple[Path, str]) -> None:
    best, others = min(
        ((float(r["step_s"]), r) for r in trials(planned[0]) if r["step_s"]), key=lambda t: t[0]
    )
    for row in rows(planned[0], "why.csv"):
        assert float(row["step_s"]) - float(row["extra_s"]) == pytest.approx(best)
        slower = float(row["extra_percent"])
        assert (0 <= slower <= 3) or row["kind"] != "close"
        assert slower > 3 or row["kind"] != "not told apart"
        if row["kind"] == "change":
            field = {"zero_stage": "distribute_param"}.get(row["field"], row["field"])
            assert row["field"] == "zero_stage" or others[field] == row["from"]


def test_intervals_are_those_of_the_shipped_table(planned: tuple[Path, str]) -> None:
    predicted = json.loads((planned[0] / "results" / "plan.json").read_text())["predicted"]
    for pool, found in predicted["past_accuracy"].items():
        (row,) = (
            r
            for r in read_residuals().ratios
            if (r.pool, r.family, r.setup) == (pool, found["family"], found["setup"])
        )
        assert found["runs"] == row.runs
        assert found["low_s"] == pytest.approx(row.low * predicted["step_s"])
        assert found["high_s"] == pytest.approx(row.high * predicted["step_s"])


def test_why_prints_what_memory_forbids(tmp_path: Path) -> None:
    request = ("plan", "llama3-8b", "--cluster", "8xh100", "--seq-len", "4096")
    options = ("--global-batch", "32", "--space", "full", "-o", "results")
    done = parplan(*request, *options, cwd=tmp_path)
    told = parplan(*request, *options, "--why", cwd=tmp_path)
    assert done.returncode == told.returncode == 0, told.stderr
    changes = [row for row in rows(tmp_path, "why.csv") if row["kind"] == "change"]
    lines = [f"{r['field']} {r['from']} -> {r['to']}: {r['verdict']}" for r in changes]
    assert all(f"  {line}\n" in told.stdout for line in lines)
    assert not any(f"  {line}\n" in done.stdout for line in lines)
    assert any(row["fits"] == "False" and float(row["missing_gb"]) > 0 for row in changes)


def test_the_manifest_lists_what_was_written(planned: tuple[Path, str]) -> None:
    results = planned[0] / "results"
    manifest = json.loads((results / "manifest.json").read_text())
    assert manifest["arguments"] == [*REFERENCE, "-o", "results"]
    assert {p.name for p in results.iterdir()} == {*manifest["files"], "manifest.json"}


def test_planning_imports_neither_torch_nor_pandas(tmp_path: Path) -> None:
    for name in ("torch", "pandas"):
        (tmp_path / f"{name}.py").write_text("raise RuntimeError('imported')\n")
    path = {"PYTHONPATH": f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"}
    done = parplan(*REFERENCE, cwd=tmp_path, environment=path)
    assert done.returncode == 0, done.stderr


def test_the_same_request_gives_the_same_table(tmp_path: Path, planned: tuple[Path, str]) -> None:
    parplan(*REFERENCE, "-o", "results", cwd=tmp_path, environment={"PYTHONHASHSEED": "7"})
    assert trials(tmp_path) == trials(planned[0])


def test_a_varying_batch_drops_every_pipeline(tmp_path: Path) -> None:
    request = ("plan", "llama3-8b", "--cluster", "4xLarge.2048GB", "--seq-len", "1024")
    options = ("--global-batch", "256,1", "--ap-version", "24.5", "--space", "ap")
    done = parplan(*request, *options, cwd=tmp_path)
    lines = done.stdout.splitlines()
    assert lines[0] == "[info] Got DBs from backend for auto config."
    assert lines[1] == "[warning] Various batch size detected : 256, 1"
    assert lines[2] == "[info] The number of candidates is 6."
    assert re.search(r"^No PP, No TP, recomputation : \w+", (tmp_path / DUMP).read_text())


@pytest.mark.parametrize("level", [1, 2])
def test_the_detailed_log_has_every_candidate(tmp_path: Path, level: int) -> None:
    environment = {"PARPLAN_DETAILED_LOG": str(level)}
    done = parplan(*REFERENCE, cwd=tmp_path, environment=environment)
    detail = tmp_path / "autoconfig_log.dump"
    text = detail.read_text() if level == 2 else done.stdout
    assert detail.exists() == (level == 2)
    assert len(re.findall(r"candidate \d+: ", text)) == 30


def test_the_memory_ratio_of_the_command_line_wins(tmp_path: Path) -> None:
    environment = {"PARPLAN_MEMORY_USAGE_CORRECTION_RATIO": "1"}
    assert parplan(*REFERENCE, cwd=tmp_path, environment=environment).returncode == 1
    again = parplan(*REFERENCE, "--memory-ratio", "80", cwd=tmp_path, environment=environment)
    assert again.returncode == 0


def test_nothing_fits(tmp_path: Path) -> None:
    (tmp_path / DUMP).write_text("good\n")
    done = parplan(*REFERENCE, "--memory-ratio", "5", "-o", "results", cwd=tmp_path)
    assert done.returncode == 1
    assert re.search(r"no candidate is possible; the closest: stage \d+: .* of 3.4 GB", done.stderr)
    assert "Traceback" not in done.stderr
    assert "train: true" not in done.stdout
    assert not (tmp_path / DUMP).exists(), "the choice of an earlier search"
    assert len(trials(tmp_path)) == 30


def test_the_full_space_has_tensor_parallel_plans(tmp_path: Path) -> None:
    request = ("plan", "llama3-8b", "--cluster", "8xh100", "--seq-len", "4096")
    done = parplan(
        *request, "--global-batch", "16", "--space", "full", "-o", "results", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert {row["tensor_parallel"] for row in trials(tmp_path)} >= {"1", "2", "4", "8"}


def test_a_planner_by_name(tmp_path: Path) -> None:
    (tmp_path / "space.toml").write_text('tensor_parallel = 1\nschedule = "zb-h1"\n')
    request = (*REFERENCE[:-1], "space.toml", "--planner", "branch-and-bound", "-o", "results")
    done = parplan(*request, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "proven: no plan of the space is better" in done.stdout
    every = parplan(*request[:-4], cwd=tmp_path)
    assert done.stdout.splitlines()[0] == every.stdout.splitlines()[0]
    assert len(trials(tmp_path)) < 30


def test_layers_are_split_after_the_search(tmp_path: Path) -> None:
    (tmp_path / "space.toml").write_text('num_stages = 8\nschedule = "1f1b"\n')
    request = ("plan", "llama3-8b", "--cluster", "8xh100", "--seq-len", "2048")
    options = ("--global-batch", "16", "--space", "space.toml", "--split-layers", "-o", "results")
    done = parplan(*request, *options, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    plan, _, _ = read_plan(tmp_path / "results" / "plan.json")
    assert plan.stage_layers is not None
    layers = " ".join(map(str, plan.stage_layers))
    assert re.search(r"uneven stages: [0-9.]+% less time", done.stderr)
    assert len(layers.split()) == 8
    assert re.search(r"· layers [0-9x ]+\n", done.stdout)


def test_a_planner_that_fails(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("def plan(space, evaluate, rng):\n    return space[0]\n")
    path = {"PYTHONPATH": f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"}
    request = (*REFERENCE[:-1], "full", "--planner", "mine:plan")
    done = parplan(*request, cwd=tmp_path, environment=path)
    assert done.returncode == 1
    assert "planner mine:plan: 0 evaluations of" in done.stderr
    assert "failed: it asked about no plan" in done.stderr


def change(**replaced: str) -> list[str]:
    words = list(REFERENCE)
    for name, value in replaced.items():
        if name == "model":
            words[1] = value
        else:
            words[words.index(f"--{name.replace('_', '-')}") + 1] = value
    return words


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (change(model="llama2-31b"), "unknown model 'llama2-31b'; did you mean"),
        (change(cluster="4xLarge.2048"), "unknown cluster '4xLarge.2048'; did you mean"),
        (change(global_batch="65"), "65 does not divide over 32 accelerators"),
        (change(global_batch="0"), "global batch: must be at least 1"),
        (change(global_batch="many"), "--global-batch: expected a number"),
        (change(seq_len="0"), "seq_len: must be at least 1, got 0"),
        (change(seq_len="x"), "argument --seq-len: "),
        ([*REFERENCE, "--num-stages", "41"], "num_stages: at most 40, the layers of llama2-13b"),
        ([*REFERENCE, "--num-stages", "two"], "expected auto or a number, got 'two'"),
        ([*REFERENCE, "--memory-ratio", "0"], "memory ratio: must be above 0"),
        ([*REFERENCE, "--memory-ratio", "nan"], "expected a finite number, got 'nan'"),
        ([*REFERENCE, "--distribute-parameter", "x"], "expected auto, true or false"),
        ([*REFERENCE, "--planner", "beam"], "--space ap: a planner needs everything, full"),
        ([*REFERENCE, "--budget", "9"], "--budget: needs --planner"),
        ([*REFERENCE[:-1], "wide"], "expected everything, full, ap or a TOML file, got 'wide'"),
        (
            [*REFERENCE[:-1], "full", "--planner", "beam", "--budget", "many"],
            "budget: expected evaluations, as in 500, or seconds, as in 30s; got 'many'",
        ),
        ([*REFERENCE[:-1], "full", "--planner", "beem"], "unknown planner 'beem'; did you"),
        ([*REFERENCE, "-o", "file/results"], "file/results: cannot be written to"),
        (change(model="broken.toml"), "broken.toml: not valid TOML"),
        (change(cluster="broken.toml"), "broken.toml: not valid TOML"),
        (change(cluster="missing.toml"), "missing.toml: cannot be read: No such file"),
        (["plam"], "unknown command 'plam'"),
    ],
)
def test_a_mistake_gets_one_clear_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("")
    Path("broken.toml").write_text("[mine\n")
    Path(DUMP).write_text("good\n")
    try:
        code: object = main(words)
    except SystemExit as end:
        code = end.code
    out, err = capsys.readouterr()
    assert code == 2
    assert len(err.splitlines()) == 1
    assert message in err
    assert out == ""
    assert Path(DUMP).read_text() == "good\n"


def test_a_mistake_gives_exit_code_2_without_traceback(tmp_path: Path) -> None:
    done = parplan(*change(model="llama2-31b"), cwd=tmp_path)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert done.stderr.startswith("parplan: error: ")
