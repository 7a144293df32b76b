"""Mutation testing of the simulator's core: `python -m tests.core_mutants [--count N] [--seed S]`.

cosmic-ray changes one place at a time in a copy of the sources, and the tests of that part have to
fail. Of all its changes a random sample is tried; what survives is printed.
"""

import argparse
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from cosmic_ray.work_db import WorkDB, use_db
from cosmic_ray.work_item import TestOutcome

ROOT = Path(__file__).parent.parent

PARTS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "schedules": (
        ("sim/schedules",),
        ("test_schedules", "test_dualpipe", "test_zero_bubble", "test_torch_orders"),
    ),
    "engine": (
        ("sim/engine.py", "sim/processes.py", "sim/self_check.py"),
        (
            *("test_engine", "test_failing", "test_streams", "test_variation", "test_slowed"),
            *("test_pairs_and_copies", "test_zero_bubble", "test_contended", "test_metamorphic"),
            "test_fast",
        ),
    ),
    "fast": (
        ("sim/fast.py", "sim/sweep.py", "sim/batch.py", "sim/tables.py"),
        ("test_fast", "test_failing", "test_slowed", "test_pairs_and_copies", "test_metamorphic"),
    ),
    "memory": (
        ("sim/memory.py", "sim/peaks.py", "sim/memory_over_time.py"),
        (
            *("test_cost_model", "test_memory_over_time", "test_stages", "test_offload"),
            *("test_software", "test_schedules", "test_pairs_and_copies"),
        ),
    ),
}
"""Of each part: its sources, and the tests that are about it."""

TIMEOUT_S = 120.0
IGNORED = ("core/RemoveDecorator",)
"""`cache` and `dataclass(frozen=True)`: without them the results are the same."""


def copied(folder: Path) -> None:
    """The sources and tests, importable from there alone."""
    for name in ("hardware", "sim", "planners", "backend", "experiments", "tests"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, folder / name)
    shutil.copytree(ROOT / "docs", folder / "docs")
    (folder / "path").mkdir()
    (folder / "path" / "parplan").symlink_to(folder)


def run(folder: Path, *words: str, log: str) -> None:
    environment = {**os.environ, "PYTHONPATH": f"{folder}/path", "PYTHONDONTWRITEBYTECODE": "1"}
    with (folder / log).open("w") as out:
        command = [sys.executable, "-m", "cosmic_ray.cli", *words]
        subprocess.run(command, cwd=folder, env=environment, check=True, stdout=out, stderr=out)


def session(folder: Path, part: str, count: int, seed: int) -> Path:
    """A session of `count` changes of a part."""
    sources, tests = PARTS[part]
    files = " ".join(f"tests/{name}.py" for name in tests if (ROOT / f"tests/{name}.py").exists())
    config = folder / f"{part}.toml"
    python = f"{sys.executable} -m pytest -x -q -p no:cacheprovider"
    config.write_text(
        "[cosmic-ray]\n"
        f"module-path = [{', '.join(repr(source) for source in sources)}]\n"
        f"timeout = {TIMEOUT_S}\nexcluded-modules = []\n"
        f'test-command = "{python} {files}"\n'
        '[cosmic-ray.distributor]\nname = "local"\n'
    )
    found = folder / f"{part}.sqlite"
    run(folder, "init", str(config), str(found), log=f"{part}.init.log")
    with use_db(found, WorkDB.Mode.open) as work:
        items = [i for i in work.work_items if i.mutations[0].operator_name not in IGNORED]
        items.sort(key=lambda item: _place(item))
        chosen = random.Random(seed).sample(items, min(count, len(items)))
        total = len(items)
        work.clear()
        work.add_work_items(chosen)
    sys.stdout.write(f"{part}: {len(chosen)} of {total} changes\n")
    return config


def _place(item: Any) -> tuple[str, ...]:
    spec = item.mutations[0]
    return (str(spec.module_path), str(spec.start_pos), spec.operator_name, str(spec.occurrence))


def baseline(folder: Path, part: str) -> None:
    run(folder, "baseline", f"{part}.toml", log=f"{part}.baseline.log")


def tried(part: str, count: int, seed: int) -> Counter[str]:
    """How many changes of a part were killed and survived."""
    with tempfile.TemporaryDirectory(prefix="mutants-") as name:
        folder = Path(name)
        copied(folder)
        session(folder, part, count, seed)
        baseline(folder, part)
        run(folder, "exec", f"{part}.toml", f"{part}.sqlite", log=f"{part}.log")
        seen: Counter[str] = Counter()
        with use_db(folder / f"{part}.sqlite", WorkDB.Mode.open) as work:
            specs = {item.job_id: item.mutations[0] for item in work.work_items}
            for job, result in work.results:
                survived = result.test_outcome == TestOutcome.SURVIVED
                seen["survived" if survived else "killed"] += 1
                if survived:
                    spec = specs[job]
                    sys.stdout.write(
                        f"survived: {spec.module_path}:{spec.start_pos[0]} {spec.operator_name}\n"
                        f"{result.diff}\n"
                    )
        return seen


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=100, help="changes of each part")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--part", choices=tuple(PARTS), action="append")
    args = parser.parse_args()
    parts = args.part or list(PARTS)
    with ThreadPoolExecutor(args.workers) as pool:
        found = list(pool.map(lambda part: tried(part, args.count, args.seed), parts))
    for part, seen in zip(parts, found, strict=True):
        total = seen.total()
        share = seen["killed"] / total if total else 0.0
        sys.stdout.write(f"{part}: {seen['killed']} of {total} changes noticed, {share:.0%}\n")


if __name__ == "__main__":
    main()
