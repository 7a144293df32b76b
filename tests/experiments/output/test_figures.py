"""Figures, checked through what is put on their axes."""

import numpy as np
from matplotlib.collections import PolyCollection
from matplotlib.patches import Rectangle

from parplan.experiments.figures.gantt import COLOURS, cost_landscape, gantt
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
