"""Branch coverage of the simulator's core: `python -m tests.tools.core_coverage`."""

import subprocess
import sys
from pathlib import Path

from tests.tools.core_mutants import PARTS

ROOT = Path(__file__).parents[2]
CORE = [PARTS[name] for name in ("schedules", "engine", "fast", "memory")]
LEAST = 95
"""Percent of lines and branches of these modules together."""


def main() -> int:
    """Run the tests, print the table; 1 below `LEAST`."""
    sources = [source for part in CORE for source in part.sources]
    tests = sorted({name for part in CORE for name in part.tests})
    include = ",".join(f"{s}/*" if (ROOT / s).is_dir() else s for s in sources)
    coverage = [sys.executable, "-m", "coverage"]
    python = ["run", "--branch", f"--include={include}", "-m", "pytest", "-q"]
    for command in (
        [*coverage, *python, *tests],
        [*coverage, "report", "--show-missing", f"--fail-under={LEAST}"],
    ):
        done = subprocess.run(command, cwd=ROOT, check=False).returncode
        if done:
            return done
    return 0


if __name__ == "__main__":
    sys.exit(main())
