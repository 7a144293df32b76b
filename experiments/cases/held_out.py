"""The published runs that are reserved for reporting accuracy."""

from collections.abc import Iterable
from pathlib import Path

from parplan.errors import ParplanError
from parplan.experiments.cases.read import Case, read_cases

PAPERS = Path(__file__).parent.parent / "papers"
CALIBRATION = PAPERS / "published_calibration.jsonl"
VALIDATION = PAPERS / "published_validation.jsonl"


def refuse_held_out(cases: Iterable[Case], path: Path = VALIDATION) -> None:
    """Raise `ParplanError` if any of `cases`, which something is to be fitted to, is in `path`."""
    held_out = {case.id for case in read_cases(path)}
    for case in cases:
        if case.id in held_out:
            raise ParplanError(
                f"{case.id}: is in {path.name}, to which nothing may be fitted; "
                f"{CALIBRATION.name} has the runs that may"
            )
