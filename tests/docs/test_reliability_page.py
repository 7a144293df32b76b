"""What the page on reliability shows is what happens, and its limits are those of the code."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

from parplan._strict import MAX_FILE_BYTES
from parplan.backend.workers.supervise import FEWEST_STEPS, SILENT_S, SLOW_FACTOR, STALL_S
from parplan.experiments.planning.record import EVERY_S, FIRST_S
from parplan.planners.search.exhaustive import HELD, PART
from parplan.planners.search.limits import MOST_RECORDED
from parplan.planners.search.run import ONE_BY_ONE
from parplan.planners.search.workers import HERE_S
from parplan.sim.models.model import MOST_LAYERS, MOST_SIZE
from parplan.sim.schedules import MOST_ACTIONS
from parplan.sim.step.self_check import CHECKED
from parplan.sim.ticks import MOST_PS
from tests.commands import parplan

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/reliability.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, flags=re.DOTALL)


def test_the_commands_run_and_the_resumed_search_is_the_whole_one(tmp_path: Path) -> None:
    (block,) = blocks("console")
    commands = [shlex.split(line.removeprefix("$ parplan ")) for line in block.splitlines()]
    for words in commands:
        done = parplan(*words, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    whole = [word for word in commands[-1] if word != "--resume"]
    assert parplan(*whole, "-o", "whole", cwd=tmp_path).returncode == 0
    own, other = tmp_path / "out" / "plan", tmp_path / "whole"
    for path in other.iterdir():
        if path.name != "manifest.json":
            assert path.read_bytes() == (own / path.name).read_bytes(), path.name


def test_the_python_block_prints_what_is_shown() -> None:
    (code,) = blocks("python")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "True\n"
    assert code.endswith("# True\n")


def test_the_numbers_are_those_of_the_code() -> None:
    for text in (
        f"after {FIRST_S:g} s and then every second",
        f"after {SILENT_S:g} s without an answer",
        f"after `--stall` seconds ({STALL_S:g})",
        f"after {FEWEST_STEPS} steps that take {SLOW_FACTOR} times as long",
        f"{MOST_ACTIONS:,} (about 2 GB)",
        f"{MOST_LAYERS:,}",
        f"{MOST_PS / 1e12 / 86400:.0f} days",
        f"{MAX_FILE_BYTES // 2**20} MiB",
        f"(`--budget`) | {MOST_RECORDED:,}",
        f"every {PART:,} plans",
        f"the {HELD:,} best",
        f"started after {HERE_S:g} s of work",
        f"of {CHECKED} candidates and the fastest",
    ):
        assert text in PAGE, text
    assert EVERY_S == 1.0
    spread = PAGE.split("one plan after the other")[1].split("have nothing to")[0]
    assert set(re.findall(r"`([\w-]+)`", spread)) == set(ONE_BY_ONE)
    assert MOST_SIZE == 10**9


def test_the_options_and_targets_are_there(tmp_path: Path) -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"`make ([\w-]+)`", PAGE):
        assert f"\n{target}:" in makefile, target
    said = parplan("execute", "--help", cwd=tmp_path).stdout
    for option in re.findall(r"--(?:nnodes|node-rank|rdzv-endpoint|stall|processes)", PAGE):
        assert option in said
    for command in ("plan", "landscape", "scale", "compare-planners", "validate"):
        assert "--dask" in parplan(command, "--help", cwd=tmp_path).stdout, command
