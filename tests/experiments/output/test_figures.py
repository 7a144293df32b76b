"""Figures, checked through what is put on their axes."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from matplotlib.collections import PolyCollection
from matplotlib.patches import Rectangle

from parplan.experiments.figures.cost_landscape import cost_landscape
from parplan.experiments.figures.gantt import COLOURS, gantt
from parplan.experiments.figures.lanes import Window, shares_of_pixels
from parplan.planners.costs.trial import Trial
from parplan.sim.costs import StageCosts
from parplan.sim.engine.engine import simulate
from parplan.sim.plan import Plan
from parplan.sim.schedules import make_schedule

COST = StageCosts(
    forward_s=1.0, input_gradient_s=1.0, weight_gradient_s=1.0, send_s=0.1, optimizer_s=0.5
)


def test_a_gantt_chart_has_a_bar_for_every_event_of_every_run() -> None:
    run = simulate(make_schedule("1f1b", 3, 4), [COST] * 3)
    figure = gantt({"predicted": run, "measured": run})
    assert len(figure.axes) == 2
    for axes in figure.axes:
        bars = [c for c in axes.collections if isinstance(c, PolyCollection)]
        assert sum(len(b.get_paths()) for b in bars) == len(run.events)
        assert {b.get_label() for b in bars} == {"forward", "backward", "send", "optimizer"}
        assert {b.get_label() for b in bars} <= set(COLOURS)
    assert figure.axes[0].get_xlim()[1] >= run.step_s
    assert figure.axes[-1].get_xlabel() == "time [s]"
    assert "bubble" in figure.axes[0].get_title(loc="left")


def test_ranks_with_steps_of_their_own_are_drawn_to_the_end_of_the_last() -> None:
    run = simulate(make_schedule("zb-h2", 3, 6), [replace(COST, post_validation=True)] * 3)
    (axes,) = gantt({"predicted": run}).axes
    assert axes.get_title(loc="left").startswith(f"predicted: {run.step_s:.4g} s from step to step")
    assert axes.get_xlim()[1] >= run.end_s > run.step_s


def test_a_long_step_is_drawn_by_shares_with_its_parts_below() -> None:
    run = simulate(make_schedule("1f1b", 4, 256), [COST] * 4)
    figure = gantt({"predicted": run})
    whole, *parts = figure.axes
    assert [axes.get_title(loc="left") for axes in parts] == ["warm-up", "steady state", "drain"]
    assert len(whole.images) >= 4
    for axes, (low, high) in zip(parts, ((0, 0.34), (0.4, 0.6), (0.66, 1)), strict=True):
        start, end = axes.get_xlim()
        assert low * run.step_s <= start < end <= high * run.step_s * (1 + 1e-9)
    steady = [c for c in parts[1].collections if c.get_label() in ("forward", "backward")]
    shown = sum(len(c.get_paths()) for c in steady)
    start, end = parts[1].get_xlim()
    inside = [
        e for e in run.events if e.stream == "compute" and e.end_s > start and e.start_s < end
    ]
    assert shown == len(inside)


def test_shares_of_pixels_are_the_time_that_bars_take() -> None:
    chance = np.random.default_rng(5)
    ends = np.cumsum(chance.uniform(0.001, 0.3, 2000)).reshape(-1, 2)
    window = Window(ends[10, 0], ends[900, 1], 97)
    found = shares_of_pixels(window.part(ends), window)
    edges = np.linspace(window.start, window.end, 98)
    for pixel, (a, b) in enumerate(itertools.pairwise(edges)):
        taken = (np.minimum(ends[:, 1], b) - np.maximum(ends[:, 0], a)).clip(0).sum()
        assert found[pixel] == pytest.approx(taken / (b - a), abs=1e-9)
    doubled = np.repeat(ends, 2, axis=0)
    np.testing.assert_allclose(shares_of_pixels(window.part(doubled), window), found, atol=1e-9)


def test_of_many_ranks_some_are_drawn() -> None:
    figure = gantt({"predicted": simulate(make_schedule("1f1b", 24, 24), [COST] * 24)})
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert (len(labels), labels[0], labels[-1]) == (16, "rank 0", "rank 23")


def test_messages_that_are_narrow_are_seen() -> None:
    short = StageCosts(
        forward_s=1.0, input_gradient_s=1.0, weight_gradient_s=1.0, send_s=1e-4, optimizer_s=0.5
    )
    run = simulate(make_schedule("1f1b", 3, 4), [short] * 3)
    axes = gantt({"predicted": run}).axes[0]
    sends = [c for c in axes.collections if c.get_label() == "send"]
    widths = [np.ptp(path.vertices[:, 0]) for bars in sends for path in bars.get_paths()]
    assert len(widths) == sum(e.stream == "send" for e in run.events)
    assert min(widths) > run.step_s / 1200


def trial(stages: int, size: int, step_s: float | None) -> Trial:
    reason = "" if step_s else "too large"
    return Trial(plan=Plan(num_stages=stages, batch_per_device=size), reason=reason, step_s=step_s)


def test_a_landscape_shows_the_best_of_each_cell_and_marks_the_optimum() -> None:
    trials = [trial(1, 1, 4.0), trial(1, 1, 3.0), trial(2, 1, None), trial(2, 4, 2.0)]
    axes = cost_landscape(trials, "title").axes[0]
    shown = axes.images[0].get_array()
    assert shown is not None
    np.testing.assert_array_equal(np.ma.filled(shown, np.nan), [[3.0, np.nan], [np.nan, 2.0]])
    cells = [p for p in axes.patches if isinstance(p, Rectangle)]
    hatched = [p.get_xy() for p in cells if p.get_hatch()]
    framed = [p.get_xy() for p in cells if not p.get_hatch()]
    assert hatched == [(0.5, -0.5)]
    assert framed == [(0.5, 0.5)]


def test_a_landscape_in_which_nothing_fits_is_all_hatched() -> None:
    axes = cost_landscape([trial(1, 1, None), trial(2, 1, None)], "title").axes[0]
    assert [bool(p.get_hatch()) for p in axes.patches] == [True, True]


def test_a_landscape_of_nothing_says_so(recwarn: pytest.WarningsRecorder) -> None:
    axes = cost_landscape([], "title").axes[0]
    assert "no plan was tried" in axes.get_title()
    assert not recwarn.list
