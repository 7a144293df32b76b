"""The figure of predictions over measurements: what is drawn, and where."""

import numpy as np
import pytest
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure

from parplan.experiments.accuracy.figure import COLOURS, MARKERS, RATIOS, figure
from parplan.experiments.cases.evaluate import Outcome
from tests.experiments.cases.published_cases import case


def outcomes(group: str, *ratios: float) -> list[Outcome]:
    one = case(group=group, measured={"step_time_s": 2.0})
    return [Outcome(case=one, step_s=2.0 * ratio) for ratio in ratios]


def labels(drawn: Figure) -> list[str]:
    return [label.get_text() for label in drawn.axes[1].get_yticklabels()]


def points(drawn: Figure, panel: int) -> list[np.ndarray]:
    """What each source has on a panel; the bands are not of points."""
    found = (np.asarray(c.get_offsets()) for c in drawn.axes[panel].collections)
    return [offsets for offsets in found if offsets.shape[0] and offsets.any()]


def test_sources_are_sorted_by_their_medians_and_counted() -> None:
    drawn = figure(
        [*outcomes("low", 0.5, 0.7), *outcomes("high", 1.5, 1.4, 0.1), *outcomes("simumax-b200", 1)]
    )
    assert labels(drawn) == ["high (3)", "simumax-b200 * (1)", "low (2)"]
    assert "6 runs" in drawn.axes[0].get_title()


def test_every_run_is_a_point_of_both_panels() -> None:
    drawn = figure([*outcomes("a", 0.5, 0.7), *outcomes("b", 1.1)])
    for panel in (0, 1):
        assert sum(len(some) for some in points(drawn, panel)) == 3
    times = np.concatenate(points(drawn, 0))
    assert times[:, 1] / times[:, 0] == pytest.approx(sorted([0.5, 0.7, 1.1]), rel=1e-12)


def test_ratios_beyond_the_axis_are_drawn_at_its_edge() -> None:
    drawn = figure(outcomes("far", 0.01, 1.0, 100.0))
    (ratios,) = points(drawn, 1)
    assert sorted(ratios[:, 0]) == [RATIOS[0], 1.0, RATIOS[1]]


def test_sources_look_different() -> None:
    many = [one for i in range(30) for one in outcomes(f"source {i}", 1.0 + i / 100)]
    drawn = figure(many)
    assert len(labels(drawn)) == 30
    assert len(set(COLOURS)) * len(set(MARKERS)) >= 30
    assert len({to_rgba(colour) for colour in COLOURS}) == len(COLOURS)
    # Lengths without a common factor: every pair of the two comes up before one is repeated.
    assert np.gcd(len(COLOURS), len(MARKERS)) == 1


def test_runs_without_times_make_a_figure_that_says_so() -> None:
    drawn = figure([Outcome(case=case(measured={"oom": True}), step_s=1.0)])
    assert "no run" in drawn.get_suptitle()
