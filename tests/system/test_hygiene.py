"""The oldest releases that are allowed, and what the dependencies' licences say."""

import re
import tomllib
from importlib import metadata
from pathlib import Path

import pytest

from tests.tools.licences import KNOWN, licence, runtime_packages

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_the_oldest_releases_are_those_of_the_project() -> None:
    lines = (ROOT / "tests/tools/minimum.txt").read_text().splitlines()
    oldest = dict(line.split("==") for line in lines if not line.startswith("#"))
    for wanted in PROJECT["dependencies"]:
        name, least = re.fullmatch(r"([\w-]+)>=([\d.]+)", wanted).groups()  # type: ignore[union-attr]
        assert oldest.pop(name).startswith(f"{least}.")
    assert not oldest


@pytest.mark.parametrize("name", runtime_packages())
def test_the_licence_of_every_package_that_is_needed_is_a_known_one(name: str) -> None:
    assert any(known in licence(metadata.metadata(name)) for known in KNOWN), name
