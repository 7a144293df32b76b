"""Inputs that are nearly right end in a result that makes sense, or in one clear line.

The quick tests try a few, always the same; `make fuzz` tries over 40,000 new ones.
"""

import os
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from parplan.errors import ParplanError
from tests.system.fuzz.world import WORLD
from tests.system.fuzz_targets import TARGETS

LIMIT_S = 20
"""An input that takes longer to compute hangs."""

WAIT_S = 300
"""And one that takes longer on a busy machine waits for something."""

ALL = {**TARGETS, **WORLD}

SHARE = {"commands": 0.25, "special_files": 0.25, "environment": 0.1, "folders": 0.1,
         "clocks": 0.05, "signals": 0.05}  # fmt: skip
"""Of the inputs of others: a command takes longer."""

LEAST_ACCEPTED = {"commands": 1 / 3}
"""Share of the inputs that have to get through; of others at least one."""

LONG = int(os.environ.get("PARPLAN_FUZZ", "4100"))


@contextmanager
def alarm(seconds: int) -> Iterator[None]:
    def ring(*_: object) -> None:
        raise AssertionError(f"hangs: computed for over {seconds} s, or waited {WAIT_S} s")

    before = [signal.signal(signum, ring) for signum in (signal.SIGALRM, signal.SIGPROF)]
    signal.alarm(WAIT_S)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGALRM, before[0])
        signal.signal(signal.SIGPROF, before[1])


def tried(name: str, count: int, seen: Counter[str], *, fixed: bool) -> None:
    """So many inputs of one kind; `seen` counts how many were accepted, refused, and failed."""

    @settings(
        max_examples=max(1, round(count * SHARE.get(name, 1))),
        derandomize=fixed,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        phases=(Phase.generate,) if fixed else (Phase.generate, Phase.shrink),
    )
    @given(data=st.data())
    def run(data: st.DataObject) -> None:
        with tempfile.TemporaryDirectory() as folder, alarm(LIMIT_S):
            try:
                accepted = ALL[name](data.draw, Path(folder))
            except ParplanError as error:
                said, accepted = str(error), False
            except Exception:
                seen["failed"] += 1
                raise
            else:
                said = "a result"
            assert said
            assert "\n" not in said
        seen["accepted" if accepted else "refused"] += 1

    run()


@pytest.mark.parametrize("name", ALL)
def test_a_few_inputs_that_are_nearly_right(name: str) -> None:
    tried(name, 10 if name == "commands" else 25, Counter(), fixed=True)


@pytest.mark.long
@pytest.mark.parametrize("name", ALL)
def test_many_inputs_that_are_nearly_right(name: str) -> None:
    seen: Counter[str] = Counter()
    try:
        tried(name, LONG, seen, fixed=False)
    finally:
        # A failing input is tried again while it is made smaller.
        counts = f"{seen['accepted']} accepted, {seen['refused']} refused, {seen['failed']} failed"
        sys.stdout.write(f"\n{name}: {seen.total()} tried, {counts}\n")
    least = LEAST_ACCEPTED.get(name, 0.0) * seen.total()
    assert seen["accepted"] > least, "too few inputs got through: the rest is not reached"
