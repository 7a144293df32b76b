"""Branch coverage of the simulator's core: `python -m tests.core_coverage`."""

import subprocess
import sys
from pathlib import Path

from tests.core_mutants import PARTS

ROOT = Path(__file__).parent.parent
LEAST = 95
"""Percent of lines and branches of these modules together."""


def main() -> int:
    """Run the tests, print the table; 1 below `LEAST`."""
    sources = [source for sources, _ in PARTS.values() for source in sources]
    names = {name for _, tests in PARTS.values() for name in tests}
    tests = [f"tests/{n}.py" for n in sorted(names) if (ROOT / f"tests/{n}.py").exists()]
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
