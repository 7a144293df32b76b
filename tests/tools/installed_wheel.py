"""Build the wheel, install it alone, and use it elsewhere: `python -m tests.tools.installed_wheel`.

The environment has what `pyproject.toml` requires and nothing more: no torch, no numba. Packages
come from where pip finds them.
"""

import subprocess
import sys
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).parents[2]
WORK = ("llama2-7b", "--cluster", "8xh100", "--seq-len", "1024", "--global-batch", "16")
COMMANDS: tuple[tuple[str, ...], ...] = (
    ("hardware", "show", "8xh100"),
    ("plan", *WORK, "--space", "full", "-o", "plan"),
    ("simulate", "plan/plan.json", "-o", "simulate"),
    ("report", "plan"),
    ("export", "plan/plan.json", "--to", "torchtitan", "-o", "export"),
    ("landscape", *WORK, "--x", "num_stages", "--y", "tensor_parallel", "-o", "landscape"),
    ("validate", "--group", "korthikanti", "-o", "validate"),
    ("reproduce", "megatron-interleaving", "-o", "reproduce"),
)
NEEDS_TORCH = ("execute", "gpt-tiny", "--processes", "1")


def run(*words: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        list(map(str, words)), cwd=cwd, capture_output=True, text=True, check=False
    )


def installed(folder: Path) -> Path:
    """The `parplan` of a new environment that holds the wheel."""
    wheels, environment = folder / "wheels", folder / "environment"
    built = run(
        sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", wheels, ROOT, cwd=folder
    )
    venv.create(environment, with_pip=True)
    (wheel,) = wheels.glob("parplan-*.whl")
    done = run(environment / "bin/python", "-m", "pip", "install", "-q", wheel, cwd=folder)
    if built.returncode or done.returncode:
        raise RuntimeError(built.stderr + done.stderr)
    return environment / "bin/parplan"


def main() -> int:
    """Print what each command came to; 1 where one does something else than it should."""
    with tempfile.TemporaryDirectory(prefix="wheel-") as name:
        folder = Path(name)
        program, place = installed(folder), folder / "elsewhere"
        place.mkdir()
        wrong = 0
        for words in COMMANDS:
            done = run(program, *words, cwd=place)
            wrong += done.returncode != 0
            sys.stdout.write(f"exit {done.returncode}: parplan {' '.join(words)}\n")
            sys.stdout.write(done.stderr if done.returncode else "")
        refused = run(program, *NEEDS_TORCH, cwd=place)
        said = refused.stderr.strip()
        wrong += refused.returncode != 2 or len(said.splitlines()) != 1 or "torch" not in said
        sys.stdout.write(f"exit {refused.returncode}: parplan {' '.join(NEEDS_TORCH)}: {said}\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
