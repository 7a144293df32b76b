"""The picture of memory shows each rank, its peak, and the limit when it is near."""

from matplotlib.figure import Figure

from parplan.experiments.figures.memory import GB, MAX_PANELS, memory_figure
from parplan.sim.costs import StageCosts
from parplan.sim.engine.engine import simulate
from parplan.sim.memory.over_time import MemoryOverTime, memory_over_time
from parplan.sim.memory.peak import StageNeeds
from parplan.sim.schedules import make_schedule

NEED = StageNeeds(
    parameter_bytes=2 * GB,
    gradient_bytes=2 * GB,
    optimizer_bytes=6 * GB,
    gathered_parameter_bytes=0,
    gathered_gradient_bytes=0,
    saved_bytes=1 * GB,
    recomputed_bytes=0,
    recomputed_stage_bytes=0,
)


def memory(num_ranks: int) -> tuple[MemoryOverTime, ...]:
    schedule = make_schedule("1f1b", num_ranks, 4)
    cost = StageCosts(forward_s=1.0, input_gradient_s=1.0, weight_gradient_s=1.0)
    run = simulate(schedule, [cost] * num_ranks)
    return memory_over_time(schedule, [NEED] * num_ranks, run)


def titles(figure: Figure) -> list[str]:
    return [axes.get_title(loc="left") for axes in figure.axes]


def test_a_panel_for_each_rank_says_its_peak() -> None:
    figure = memory_figure(memory(2), 20.0, 20 * GB)
    assert titles(figure) == ["rank 0: peak 12.0 GB of 20.0 GB", "rank 1: peak 11.0 GB of 20.0 GB"]


def test_of_many_ranks_some_are_shown_with_the_first_and_the_last() -> None:
    shown = titles(memory_figure(memory(20), 20.0))
    assert len(shown) == MAX_PANELS
    assert shown[0].startswith("rank 0:")
    assert shown[-1].startswith("rank 19:")


def test_the_limit_is_drawn_when_a_peak_comes_near() -> None:
    near, far = memory_figure(memory(1), 20.0, 14 * GB), memory_figure(memory(1), 20.0, 80 * GB)
    assert near.axes[0].get_ylim()[1] > 14
    assert far.axes[0].get_ylim()[1] < 80
