"""Commands survive a failure at any of their operations on files."""

from pathlib import Path

import pytest

from tests.system.fault_commands import COMMANDS
from tests.system.fault_points import KINDS
from tests.system.inject_faults import at_every_point

pytestmark = [
    pytest.mark.timeout(3600),
    # The forks hold no locks of other threads: parplan's commands here start none.
    pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning"),
]


@pytest.mark.parametrize(
    ("name", "kind", "first"),
    [("plan", "error", 5), ("landscape", "kill", 11), ("calibrate", "full", 7)],
)
def test_a_few_faults_lose_nothing(name: str, kind: str, first: int, tmp_path: Path) -> None:
    found = dict(at_every_point(name, tmp_path, [kind], 17, first))
    assert len(found) >= 2
    assert {fault: lost for fault, lost in found.items() if lost} == {}


@pytest.mark.long
@pytest.mark.parametrize("name", COMMANDS)
def test_a_fault_at_every_point_loses_nothing(name: str, tmp_path: Path) -> None:
    found = dict(at_every_point(name, tmp_path, KINDS))
    assert len(found) > 100
    assert {fault: lost for fault, lost in found.items() if lost} == {}
