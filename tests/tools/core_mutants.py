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


def _planners(*names: str) -> tuple[str, ...]:
    return tuple(f"planners/{name}.py" for name in names)


PLANNERS: dict[str, Part] = {
    "space": Part(
        sources=_planners(
            *("space", "layouts", "variants", "wide_space", "constraints", "options", "checks"),
            *("ap_space", "ap_log"),
        ),
        tests=(
            *("test_space", "test_space_by_filter", "test_wide_space", "test_options"),
            *("test_ap_space", "test_space_edges"),
        ),
    ),
    "bounds": Part(
        sources=_planners(
            *("bound", "box_bounds", "group_bounds", "relaxed_parts", "row_arithmetic"),
            *("space_rows", "space_table", "open_floor", "branch_and_bound", "all_steps"),
        ),
        tests=(*("test_bound_paths", "test_table_rows", "test_space_table", "test_wide_space"),),
    ),
    "costs": Part(
        sources=_planners(
            *("parts", "shared_costs", "stage_memory", "evaluator", "exhaustive", "search"),
            *("budget", "run"),
        ),
        tests=(
            *("test_evaluator", "test_evaluator_books", "test_exhaustive", "test_goals"),
            "test_space_table",
        ),
    ),
    "planners": Part(
        sources=_planners(
            *("all_plans", "random_search", "grid", "beam", "annealing", "evolution", "mcmc"),
            *("nsga2", "bayesian", "as_ap", "pareto_front"),
            *("split", "dynamic_programming", "integer_program"),
        ),
        tests=(
            *("test_search_steps", "test_bayesian", "test_nsga2", "test_cuts", "test_split"),
            *("test_uneven_planners", "test_integer_program", "test_goals"),
        ),
    ),
    "answers": Part(
        sources=_planners(
            *("why", "closest", "nearer", "objectives", "goal", "robust", "uncertainty"),
            *("fidelity", "mixed"),
        ),
        tests=(
            *("test_why", "test_objectives", "test_goals", "test_robust", "test_uncertainty"),
            *("test_fidelity", "test_mixed", "test_mixed_search", "test_closest", "test_answers"),
        ),
    ),
}

PARTS: dict[str, Part] = {
    "schedules": Part(
        sources=("sim/schedules",),
        tests=(
            *("test_schedules_exact", "test_schedules", "test_dualpipe", "test_zero_bubble"),
            "test_torch_orders",
        ),
    ),
    "engine": Part(
        sources=("sim/engine/engine.py", "sim/engine/rank_processes.py", "sim/step/self_check.py"),
        tests=(
            *("test_engine", "test_failing", "test_streams", "test_variation", "test_slowed"),
            *("test_pairs_and_copies", "test_zero_bubble", "test_contended", "test_metamorphic"),
            *("test_fast", "test_self_check"),
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
            *("test_fast_exact", "test_fast", "test_failing", "test_slowed"),
            *("test_pairs_and_copies", "test_metamorphic"),
        ),
    ),
    "memory": Part(
        sources=("sim/memory/peak.py", "sim/memory/moments.py", "sim/memory/over_time.py"),
        tests=(
            *("test_cost_model", "test_memory_over_time", "test_stages", "test_offload"),
            *("test_software", "test_schedules", "test_pairs_and_copies", "test_memory_exact"),
        ),
    ),
    **PLANNERS,
}


def looked_at() -> dict[tuple[str, str, str], str]:
    """Why a survivor changes nothing, by file, line of the source and operator."""
    listed = tomllib.loads((ROOT / "tests" / "equivalent_mutants.toml").read_text("utf-8"))
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
    files = [f"tests/{name}.py" for name in part.tests]
    with tempfile.TemporaryDirectory(prefix="mutants-") as name:
        found = changes(ROOT, part.sources)
        chosen = random.Random(seed).sample(found, min(count, len(found)))
        return len(found), list(outcomes(ROOT, Path(name), files, chosen, workers))


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
