"""Mutation testing: `python -m tests.tools.core_mutants [--part P] [--count N] [--seed S] ...`.

cosmic-ray changes one place at a time in a copy of the sources, and a test of that part has to
fail. Of all its changes a random sample is tried; what survives is printed, with what
`tests/tools/equivalent_mutants.toml` says of it.
"""

import argparse
import os
import random
import sys
import tempfile
import tomllib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from tests.tools.mutation_run import Tried, changes, outcomes

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Sources, and the tests that are about them."""

    sources: tuple[str, ...]
    tests: tuple[str, ...]


def _files(folder: str, *names: str) -> tuple[str, ...]:
    return tuple(f"{folder}/{name}.py" for name in names)


PLANNERS: dict[str, Part] = {
    "space": Part(
        sources=(
            *_files("planners/spaces", "space", "layouts", "variants", "wide_space", "make"),
            *_files("planners/spaces", "constraints", "options", "checks"),
            *_files("planners/ap", "candidates", "log"),
        ),
        tests=_files(
            "tests/planners/spaces",
            *("test_space", "test_space_by_filter", "test_wide_space", "test_options"),
            *("test_ap_space", "test_space_edges"),
        ),
    ),
    "bounds": Part(
        sources=(
            *_files("planners/bounds", "schedule_bounds", "box_bounds", "group_bounds", "screen"),
            *_files("planners/bounds", "space_rows", "space_table", "untried_bound"),
            "planners/search/exact_steps.py",
            "planners/costs/minimum_tables.py",
            "planners/algorithms/exact/branch_and_bound.py",
            "sim/cost_model/stage_formula_of_rows.py",
        ),
        tests=(
            *_files("tests/planners/bounds", "test_bound_paths", "test_space_rows"),
            *_files("tests/planners/bounds", "test_space_table", "test_screen"),
            "tests/planners/search/test_exact_steps.py",
            "tests/planners/spaces/test_wide_space.py",
        ),
    ),
    "costs": Part(
        sources=(
            *_files("planners/costs", "cost_tables", "cost_cache", "plan_costs", "trial"),
            *_files("planners/search", "evaluator", "exhaustive", "report", "budget", "run"),
            "planners/bounds/stage_memory.py",
        ),
        tests=(
            *_files("tests/planners/search", "test_evaluator", "test_evaluator_accounting"),
            "tests/planners/search/test_exhaustive.py",
            "tests/planners/explain/test_goals.py",
            "tests/planners/bounds/test_space_table.py",
        ),
    ),
    "planners": Part(
        sources=("planners/algorithms/heuristic", "planners/algorithms/exact"),
        tests=(
            *_files("tests/planners/algorithms", "test_search_steps", "test_bayesian"),
            *_files("tests/planners/algorithms", "test_nsga2", "test_split", "test_block_moves"),
            *_files("tests/planners/algorithms", "test_uneven_planners", "test_integer_program"),
            "tests/planners/explain/test_goals.py",
        ),
    ),
    "explanations": Part(
        sources=(
            *_files("planners/explain", "why", "ways_to_fit", "faster_neighbours", "robust"),
            *_files("planners/explain", "uncertainty", "fidelity"),
            *_files("planners/costs", "objectives", "goal"),
            "planners/mixed_clusters.py",
        ),
        tests=(
            *_files("tests/planners/explain", "test_why", "test_objectives", "test_goals"),
            *_files("tests/planners/explain", "test_robust", "test_uncertainty", "test_fidelity"),
            *_files("tests/planners/explain", "test_ways_to_fit", "test_explanations"),
            *_files("tests/planners/algorithms", "test_mixed", "test_mixed_search"),
        ),
    ),
}

PARTS: dict[str, Part] = {
    "schedules": Part(
        sources=("sim/schedules",),
        tests=_files(
            "tests/sim/schedules",
            *("test_schedules_exact", "test_schedules", "test_dualpipe", "test_zero_bubble"),
            "test_torch_orders",
        ),
    ),
    "engine": Part(
        sources=("sim/engine/engine.py", "sim/engine/rank_processes.py", "sim/step/self_check.py"),
        tests=(
            *_files("tests/sim/engine", "test_engine", "test_failures", "test_variation"),
            *_files("tests/sim/engine", "test_overlap_and_dualpipe", "test_self_check"),
            *_files("tests/sim/fast", "test_message_slowdown", "test_shared_links", "test_fast"),
            "tests/sim/analysis/test_streams.py",
            "tests/sim/schedules/test_zero_bubble.py",
            "tests/sim/test_metamorphic.py",
        ),
    ),
    "fast": Part(
        sources=(
            "sim/fast/fast.py",
            "sim/step/sweep.py",
            "sim/fast/numpy_sweep.py",
            "sim/step/step_tables.py",
        ),
        tests=(
            *_files("tests/sim/fast", "test_fast_exact", "test_fast", "test_message_slowdown"),
            *_files("tests/sim/engine", "test_failures", "test_overlap_and_dualpipe"),
            "tests/sim/test_metamorphic.py",
        ),
    ),
    "memory": Part(
        sources=("sim/memory/peak.py", "sim/memory/moments.py", "sim/memory/over_time.py"),
        tests=(
            *_files("tests/sim/memory", "test_memory_over_time", "test_offload"),
            *_files("tests/sim/memory", "test_memory_exact", "test_peak_of_rows"),
            *_files("tests/sim/cost_model", "test_cost_model", "test_habits"),
            "tests/sim/models/test_stages.py",
            "tests/sim/schedules/test_schedules.py",
            "tests/sim/engine/test_overlap_and_dualpipe.py",
        ),
    ),
    **PLANNERS,
}

EQUIVALENT = ROOT / "tests" / "tools" / "equivalent_mutants.toml"


def looked_at() -> dict[tuple[str, str, str], str]:
    """Why a survivor changes nothing, by file, line of the source and operator."""
    listed = tomllib.loads(EQUIVALENT.read_text("utf-8"))
    known: dict[tuple[str, str, str], str] = {}
    for change in listed.get("change", ()):
        lines = map(str.strip, (ROOT / change["file"]).read_text("utf-8").splitlines())
        if change["line"] not in lines:
            raise ValueError(f"equivalent_mutants.toml: {change['file']} has no {change['line']!r}")
        for operator in change["operators"]:
            known[change["file"], change["line"], operator] = change["reason"]
    return known


def tried(part: Part, count: int, seed: int, workers: int) -> tuple[int, list[Tried]]:
    """How many changes of a part there are, and what came of `count` of them."""
    with tempfile.TemporaryDirectory(prefix="mutants-") as name:
        found = changes(ROOT, part.sources)
        chosen = random.Random(seed).sample(found, min(count, len(found)))
        return len(found), list(outcomes(ROOT, Path(name), part.tests, chosen, workers))


def summary(name: str, total: int, seen: list[Tried]) -> str:
    """One line of a part."""
    count = Counter(change.killed for change in seen)
    known = looked_at()
    same = sum(1 for change in seen if not change.killed and change.key in known)
    return (
        f"{name}: {count[True]} of {len(seen)} changes noticed, {count[True] / len(seen):.0%} "
        f"(of {total}); {same} of the {count[False]} others are known to change no result\n"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=100, help="changes of each part")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--part", choices=tuple(PARTS), action="append")
    args = parser.parse_args()
    known = looked_at()
    lines = []
    for name in args.part or list(PARTS):
        total, seen = tried(PARTS[name], args.count, args.seed, args.workers)
        for change in seen:
            if not change.killed:
                sys.stdout.write(f"survived: {change}\n{known.get(change.key, '')}\n\n")
        lines.append(summary(name, total, seen))
        sys.stdout.write(lines[-1])
    sys.stdout.write("\n" + "".join(lines))


if __name__ == "__main__":
    main()
