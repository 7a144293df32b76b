"""Command lines that are nearly right: legal ones, of which at most two words are broken, and what
their results have to hold."""

import contextlib
import csv
import functools
import io
import json
import math
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from parplan.experiments.cli import main, make_parser
from parplan.hardware.machines.presets import cluster_preset
from parplan.sim.plan_file import read_plan
from tests.system.fuzz_documents import Draw

Options = dict[str, list[tuple[str, ...]]]
"""The legal values of each option; without any for one that has none."""

MODELS = ["gpt-tiny", "gpt-tiny", "llama2-7b", "mixtral-8x7b"]
CLUSTERS = ["8xh100", "2xdgx-a100", "4xLarge.2048GB", "8xa100-40gb"]
NODES = ["h100", "a100-sxm-80gb", "dgx-a100"]
FIELDS = {
    "num_stages": "1,2", "tensor_parallel": "1,2", "zero_stage": "0,1,3", "memory": "0.01,1",
    "recomputation": "none,full", "batch_per_device": "1,2", "schedule": "gpipe,1f1b",
    "network_bandwidth": "0.5,2", "compute": "1,2", "global_batch": "16,32", "seq_len": "32,64",
    "overlap_gradient_reduction": "true,false", "context_parallel": "1,2",
}  # fmt: skip
METRICS = ["step-time", "tokens-per-accelerator", "mfu", "memory", "bubble"]
TOOLS = ["megatron", "megatron-bridge", "deepspeed", "torchtitan", "accelerate"]
PLANNERS = ["random", "grid", "beam", "evolution", "nsga2", "annealing", "mcmc", "as-ap",
            "branch-and-bound", "pareto-front", "exhaustive"]  # fmt: skip

SPACE = 'tensor_parallel = [1, 2]\nnum_stages = { max = 2 }\nschedule = "1f1b"\n'
LAUNCH = """torchrun --nproc-per-node 8 pretrain_gpt.py --num-layers 4 --hidden-size 256 \\
  --num-attention-heads 4 --seq-length 64 --max-position-embeddings 64 --vocab-size 1024 \\
  --micro-batch-size 2 --global-batch-size 32 --tensor-model-parallel-size 2 \\
  --pipeline-model-parallel-size 2 --bf16 --use-distributed-optimizer
"""

WORKLOAD: Options = {
    "--software": [("none",), ("megatron-lm",)],
    "--attention": [(a,) for a in ("flash", "flash-2", "unfused", "eager")],
    "--no-mixed-precision": [()],
}
PLAN: Options = {
    **WORKLOAD,
    "--num-stages": [("1",), ("2",), ("auto",)],
    "--num-micro-batches": [("1",), ("4",), ("auto",)],
    "--activation-recomputation": [("auto",), ("true",), ("false",)],
    "--distribute-parameter": [("auto",), ("true",), ("false",)],
    "--no-pipeline-parallel": [()],
    "--memory-ratio": [("0.5",), ("50",), ("100",)],
    "--detailed-log": [("0",), ("1",), ("2",)],
    "--ap-version": [("24.2.0",), ("24.3",), ("24.5",)],
    "--objective": [("memory",), ("step-time",)],
    "--space": [("full",), ("ap",), ("space.toml",)],
    "--workers": [("1",), ("16",)],
    "--why": [()],
    "--pareto": [()],
    "--executable": [()],
    "--split-layers": [()],
}
SIMULATE: Options = {
    "--cluster": [("8xh100",), ("8xa100-40gb",)],
    "--software": [("none",), ("megatron-lm",)],
    "--slow": [("1=1.5",), ("0=2", "7=1.1")],
    "--fragmented-share": [("0",), ("0.1",)],
    "--memory-snapshot": [()],
}
SWEPT: Options = {**WORKLOAD, "--space": [("full",), ("space.toml",)], "--force": [()],
                  "--workers": [("1",), ("2",)]}  # fmt: skip
LANDSCAPE: Options = {**SWEPT, "--metric": [(m,) for m in METRICS],
                      "--memory-ratio": [("1",)], "--around": [("plan.json",)]}  # fmt: skip
SCALE: Options = {**SWEPT, "--scaling": [("strong",), ("weak",), ("both",)],
                  "--what-if": [("memory=2",), ("accelerator=h200",)]}  # fmt: skip
IMPORT: Options = {"--memory-ratio": [("80",), ("5",)], "--set": [("zero_stage=0",)],
                   "--software": [("none",)], "--global-batch": [("32",)]}  # fmt: skip

WORDS = [
    *("gpt-tiny", "llama2-7b", "8xh100", "2xdgx-a100", "64", "16", "8", "0", "-1", "1e9", "nan"),
    *("99999999999999999999", "auto", "true", "", "ä", "--", "full", "ap", "1f1b", "random", "inf"),
    *("branch-and-bound", "30s", "10", "no/such/file.toml", "plan.json", "/dev/null", "/"),
    *("a" * 300, "space.toml", "memory=0", "num_stages=0", "1=0", "--force", "--resume", "1,2"),
]


def _one(draw: Draw, values: Sequence[Any]) -> Any:
    return draw(st.sampled_from(values))


def _with(draw: Draw, words: Sequence[str], options: Options) -> list[str]:
    """The words, then up to three options with legal values."""
    found = list(words)
    for name in draw(st.lists(st.sampled_from(sorted(options)), max_size=3, unique=True)):
        found += [name, *_one(draw, options[name])]
    return found


def _workload(draw: Draw, clusters: Sequence[str]) -> list[str]:
    sizes = ["--seq-len", _one(draw, ["64", "32"]), "--global-batch", _one(draw, ["16", "32"])]
    return [_one(draw, MODELS), "--cluster", _one(draw, clusters), *sizes]


def legal(draw: Draw) -> list[str]:
    """A command line of parplan that does something small."""
    command = _one(draw, ["plan", "plan", "planner", "simulate", "landscape", "scale", "export",
                          "import", "hardware", "report"])  # fmt: skip
    if command == "plan":
        return _with(draw, ["plan", *_workload(draw, CLUSTERS)], PLAN)
    if command == "planner":
        words = ["plan", *_workload(draw, CLUSTERS), "--planner", _one(draw, PLANNERS)]
        words += ["--budget", _one(draw, ["1", "5", "20"]), "--seed", _one(draw, ["0", "7"])]
        own = {k: v for k, v in PLAN.items() if k != "--space"}
        return [*_with(draw, words, own), "--space", _one(draw, ["full", "space.toml"])]
    if command == "simulate":
        return _with(draw, ["simulate", "plan.json"], SIMULATE)
    if command == "landscape":
        return _landscape(draw)
    if command == "scale":
        words = ["scale", *_workload(draw, NODES), "--sizes", _one(draw, ["8", "8,16", "1,2,4"])]
        return _with(draw, words, SCALE)
    if command == "export":
        to = ["--cluster", _one(draw, ["8xh100", "8xa100-40gb"])] if draw(st.booleans()) else []
        return ["export", "plan.json", "--to", _one(draw, TOOLS), *to]
    if command == "import":
        words = ["import", "launch.sh", "--from", "megatron", "--cluster", "8xh100"]
        return _with(draw, words, IMPORT)
    if command == "report":
        return ["report", "made", *(["-o", "page.html"] if draw(st.booleans()) else [])]
    a, b = _one(draw, CLUSTERS), _one(draw, CLUSTERS)
    return ["hardware", *_one(draw, [["list"], ["show", a], ["compare", a, b]])]


def _landscape(draw: Draw) -> list[str]:
    x, y = draw(st.lists(st.sampled_from(sorted(FIELDS)), min_size=2, max_size=2, unique=True))
    words = ["landscape", *_workload(draw, CLUSTERS), "--x", f"{x}={FIELDS[x]}"]
    words += ["--y", f"{y}={FIELDS[y]}"] if draw(st.booleans()) else []
    return _with(draw, words, LANDSCAPE)


def broken_words(draw: Draw, words: list[str]) -> list[str]:
    """The same with none, one or two words replaced, added or left out."""
    words = list(words)
    for _ in range(_one(draw, [0, 0, 0, 1, 1, 2])):
        place = draw(st.integers(1, len(words)))
        word = draw(st.one_of(st.sampled_from(WORDS), st.text(max_size=6)))
        how = _one(draw, ["replace", "replace", "add", "drop"])
        if how == "add" or place == len(words):
            words.insert(place, word)
        elif how == "replace":
            words[place] = word
        else:
            del words[place]
    return words


@functools.cache
def _made() -> Path:
    """A folder of results, to be shown."""
    folder = Path(tempfile.mkdtemp(prefix="parplan-fuzz-"))
    words = ["plan", "gpt-tiny", "--cluster", "8xh100", "--seq-len", "64", "--global-batch", "16"]
    code, *_ = ran([*words, "-o", "made"], folder)
    assert code == 0
    return folder / "made"


def ran(words: Sequence[str], folder: Path) -> tuple[int, str, str]:
    """The exit code, stdout and stderr of a command in a folder."""
    said, printed = io.StringIO(), io.StringIO()
    before = Path.cwd()
    os.chdir(folder)
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(printed):
            try:
                code = main(words)
            except SystemExit as error:
                code = error.code  # type: ignore[assignment]
    finally:
        os.chdir(before)
    return code, printed.getvalue(), said.getvalue()


def command_line(draw: Draw, folder: Path, plan: dict[str, Any]) -> bool:
    """A result that makes sense, or one line and exit code 2; 1 where nothing fits."""
    (folder / "plan.json").write_text(json.dumps(plan))
    (folder / "space.toml").write_text(SPACE)
    (folder / "launch.sh").write_text(LAUNCH)
    words = broken_words(draw, legal(draw))
    if {"-h", "--help"} & set(words):
        return True
    if "made" in words:
        shutil.copytree(_made(), folder / "made")
    code, printed, said = ran(words, folder)
    assert code in (0, 1, 2), (words, code)
    assert "Traceback" not in said, words
    assert "nan" not in printed.lower().split(), words
    if code == 2:
        lines = [line for line in said.splitlines() if "warning:" not in line]
        assert lines, words
        assert "error:" in lines[-1], (words, said)
        assert sum("error:" in line for line in lines) == 1, (words, said)
        return False
    check_files(folder / "out", words)
    # Where nothing fits, that is a result.
    return True


def check_files(folder: Path, words: Sequence[str]) -> None:
    """What a command wrote can be read, and has no number that makes no sense."""
    for path in folder.rglob("*"):
        if path.suffix == ".json":
            _check_json(json.loads(path.read_text(), parse_constant=_no_constant), path.name)
        elif path.suffix == ".jsonl":
            for line in path.read_text().splitlines():
                json.loads(line, parse_constant=_no_constant)
        elif path.suffix == ".csv":
            with path.open(newline="") as file:
                for row in csv.DictReader(file):
                    _check_row(row, (words, path.name))
        elif path.suffix == ".png":
            assert path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n", path
        if path.name == "trials.csv":
            _check_memory(path, words)
        if path.name == "plan.json":
            read_plan(path)


def _no_constant(text: str) -> Any:
    raise AssertionError(f"{text} in a result")


def _check_json(value: Any, where: str, key: str = "") -> None:
    if isinstance(value, dict):
        for name, inner in value.items():
            _check_json(inner, where, name)
    elif isinstance(value, list):
        for inner in value:
            _check_json(inner, where, key)
    elif isinstance(value, float | int) and key in ("ts", "dur", "step_s", "seconds"):
        assert value >= 0, (where, key, value)


def _check_row(row: dict[str, str], where: Any) -> None:
    for name, text in row.items():
        assert text is not None, (where, row)
        assert text.lower() not in ("nan", "inf", "-inf"), (where, name)
        if name in ("step_s", "seconds", "tokens_per_s", "mfu", "memory_gb", "step-time", "share"):
            assert not text or (math.isfinite(float(text)) and float(text) >= 0), (where, name)


def _check_memory(path: Path, words: Sequence[str]) -> None:
    """No plan that is called possible needs more than it may have."""
    args = make_parser(words[0]).parse_args(words)
    share = 0.8 if args.memory_ratio_percent is None else args.memory_ratio_percent / 100
    limit = share * cluster_preset(args.cluster).accelerator.memory_bytes
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            if row["verdict"] == "fits":
                assert float(row["step_s"]) > 0, words
                assert max(map(float, row["memory_bytes_per_stage"].split())) <= limit + 1, words
            else:
                assert row["reason"], words
