"""What of a collective is exposed."""

import pytest
import torch

from parplan.backend.execution.profiled_step import (
    Profiled,
    TracedCollective,
    profiled,
    union,
    without,
)
from parplan.sim.plan import Plan


def test_unions_and_differences_of_spans() -> None:
    spans = union([(3.0, 4.0), (0.0, 1.0), (0.5, 2.0), (4.0, 5.0), (7.0, 7.0)])
    assert spans == [(0.0, 2.0), (3.0, 5.0)]
    assert without(spans, [(-1.0, 0.5), (1.0, 1.5), (4.5, 9.0)]) == [
        (0.5, 1.0),
        (1.5, 2.0),
        (3.0, 4.5),
    ]
    assert without(spans, []) == spans
    assert without([], spans) == []


def test_only_what_nothing_runs_beside_is_exposed_and_counts_once() -> None:
    seen = Profiled(
        collectives=(
            TracedCollective("data-parallel", "gloo:all_reduce", 0.0, 4.0),
            TracedCollective("tensor-parallel", "gloo:all_gather", 3.0, 6.0),
            TracedCollective("send", "gloo:send", 0.0, 10.0),
        ),
        computing=((0.0, 1.0), (5.5, 8.0)),
    )
    assert seen.exposed_s(0.0, 10.0) == {"tensor-parallel": 2.5, "data-parallel": 2.0}
    assert seen.exposed_s(0.5, 2.0) == {"tensor-parallel": 0.0, "data-parallel": 1.0}


def test_a_step_under_the_profiler_tells_when_it_computes() -> None:
    values = torch.randn(300, 300)
    marks: list[float] = []

    def step() -> None:
        import time

        marks.append(time.perf_counter())
        for _ in range(10):
            values @ values
        marks.append(time.perf_counter())

    seen = profiled(step, Plan(), torch.device("cpu"))
    assert seen.collectives == ()
    inside = sum(b - a for a, b in without(list(seen.computing), [(0.0, marks[0])]))
    assert 0.2 * (marks[1] - marks[0]) < inside
    assert seen.computing[0][0] == pytest.approx(marks[0], abs=marks[1] - marks[0])
