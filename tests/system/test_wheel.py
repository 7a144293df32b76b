"""The wheel holds what the folders hold."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = ("parplan", "hardware", "sim", "planners", "backend", "experiments")


def package_files() -> set[str]:
    return {
        path.relative_to(ROOT).as_posix().removeprefix("parplan/")
        for folder in FOLDERS
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


@pytest.mark.timeout(600)
def test_the_wheel_holds_every_file_of_the_packages(tmp_path: Path) -> None:
    source = tmp_path / "source"
    skip = shutil.ignore_patterns("__pycache__")
    for folder in FOLDERS:
        shutil.copytree(ROOT / folder, source / folder, ignore=skip)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", ".", "./source"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("parplan-*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    packed = {name.removeprefix("parplan/") for name in names if name.startswith("parplan/")}
    assert packed == package_files()
    assert any(name.endswith("entry_points.txt") for name in names)
