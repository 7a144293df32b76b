"""Provenance of a result: versions, commit, presets."""

import hashlib
import platform
import subprocess
import sys
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = ("parplan", "numpy", "scipy", "simpy", "matplotlib", "pandas", "torch")

ROOT = Path(__file__).parents[2]
"""The folder that holds hardware/, sim/, ...: the repository, or the installed package."""


def provenance() -> dict[str, Any]:
    """Date, versions, commit and the digests of the presets, for a manifest."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "packages": {name: _version(name) for name in PACKAGES},
        "commit": _commit(),
        "presets_sha256": {
            path.relative_to(ROOT).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
            for folder in ("hardware", "sim")
            for path in sorted((ROOT / folder).rglob("*.toml"))
        },
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _commit() -> str | None:
    """The commit of the checkout that this code lies in, marked if files differ from it."""
    if not (ROOT / "pyproject.toml").is_file():
        return None
    command = ["git", "-C", str(ROOT), "describe", "--always", "--abbrev=40", "--dirty"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None
