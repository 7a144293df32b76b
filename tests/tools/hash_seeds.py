"""The same bytes whatever the order of sets: `python -m tests.tools.hash_seeds [SEED ...]`.

Runs commands of every kind under several values of PYTHONHASHSEED, and compares what they print
and each file that they write. How long something took, and `manifest.json`, are left out.
"""

import re
import sys
import tempfile
from pathlib import Path

from tests.commands import parplan

BATCH = ("--seq-len", "1024", "--global-batch", "16")
SMALL = ("llama2-7b", "--cluster", "8xh100", *BATCH)
WIDE = (*SMALL, "--space", "full")
COMMANDS: tuple[tuple[str, ...], ...] = (
    ("plan", *WIDE, "-o", "plan"),
    ("plan", *SMALL, "--space", "ap", "-o", "ap"),
    *(
        ("plan", *WIDE, "--planner", name, "--budget", "30", "-o", name)
        for name in ("random", "grid", "annealing", "evolution", "mcmc", "beam", "nsga2")
    ),
    ("plan", *WIDE, "--planner", "branch-and-bound", "-o", "bounds"),
    ("simulate", "plan/plan.json", "-o", "simulate"),
    ("export", "plan/plan.json", "--to", "torchtitan", "-o", "export"),
    ("landscape", *SMALL, "--x", "num_stages", "--y", "tensor_parallel", "-o", "landscape"),
    ("scale", "llama2-7b", "--cluster", "h100", "--sizes", "8,16", *BATCH, "-o", "scale"),
    ("validate", "--group", "korthikanti", "-o", "validate"),
    ("reproduce", "megatron-interleaving", "-o", "reproduce"),
    ("hardware", "show", "64xh100"),
)


def simulated(seed: str, folder: Path) -> dict[str, bytes]:
    """What all commands print and write; raises `RuntimeError` where one of them fails."""
    found: dict[str, bytes] = {}
    for words in COMMANDS:
        done = parplan(*words, cwd=folder, environment={"PYTHONHASHSEED": seed})
        if done.returncode:
            raise RuntimeError(f"parplan {' '.join(words)}: {done.stderr}")
        printed = re.sub(r"Elapsed Time .*", "Elapsed Time", done.stdout)
        found[f"output of {' '.join(words)}"] = printed.encode()
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != "manifest.json"]
    return found | {str(path.relative_to(folder)): path.read_bytes() for path in files}


def main() -> int:
    """Compare; 1 where something differs."""
    seeds = sys.argv[1:] or ["0", "1", "2"]
    results = []
    for seed in seeds:
        with tempfile.TemporaryDirectory(prefix="seed-") as folder:
            results.append(simulated(seed, Path(folder)))
        sys.stderr.write(f"PYTHONHASHSEED={seed}: {len(results[-1])} outputs\n")
    first = results[0]
    unlike = {
        name
        for other in results[1:]
        for name in first.keys() | other.keys()
        if first.get(name) != other.get(name)
    }
    for name in sorted(unlike):
        sys.stdout.write(f"differs: {name}\n")
    sys.stdout.write(
        f"{len(COMMANDS)} commands under {len(seeds)} seeds: {len(first) - len(unlike)} of "
        f"{len(first)} outputs are the same\n"
    )
    return 1 if unlike else 0


if __name__ == "__main__":
    sys.exit(main())
