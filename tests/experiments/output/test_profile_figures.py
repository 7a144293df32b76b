"""Pictures of a profile show every measurement."""

import dataclasses

import pytest
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection

from parplan.experiments.figures.profile import (
    bus_bandwidth,
    figures,
    measured_against_model,
    roofline,
)
from parplan.hardware.kernels.kernel import MemoryBound
from tests.hardware.test_profile import SAMPLE


def points(axes: Axes) -> list[tuple[float, float]]:
    return [
        (float(x), float(y))
        for collection in axes.collections
        if isinstance(collection, PathCollection)
        for x, y in collection.get_offsets()
    ]


def test_the_roofline_has_every_kernel_that_computes_and_none_above_the_best() -> None:
    (axes,) = roofline(SAMPLE).axes
    computing = [m for m in SAMPLE.kernels if not isinstance(m.kernel, MemoryBound)]
    assert len(points(axes)) == len(computing)
    assert max(y for _, y in points(axes)) == pytest.approx(
        max(m.kernel.flops / m.timing.seconds / 1e9 for m in computing)
    )
    assert axes.get_xscale() == axes.get_yscale() == "log"


def test_bus_bandwidth_is_drawn_over_size() -> None:
    (axes,) = bus_bandwidth(SAMPLE).axes
    (container,) = axes.containers
    x, y = container.lines[0].get_data()
    assert list(x) == [1024, 2**20]
    assert list(y) == pytest.approx([1024 / 1e-4 / 1e9, 2**20 / 1e-3 / 1e9])


def test_a_model_that_is_right_lies_on_the_diagonal() -> None:
    times = {m.kernel: m.timing.seconds for m in SAMPLE.kernels}
    (axes,) = measured_against_model(SAMPLE, times.__getitem__).axes
    assert len(points(axes)) == len(times)
    assert all(x == y for x, y in points(axes))
    assert "(median factor 1)" in axes.get_legend().get_texts()[0].get_text()


def test_only_what_was_measured_is_drawn() -> None:
    assert set(figures(SAMPLE)) == {"roofline", "model", "bus-bandwidth"}
    one_process = dataclasses.replace(
        SAMPLE,
        collectives=(),
        machine=dataclasses.replace(SAMPLE.machine, num_processes=1, backend="none"),
    )
    assert set(figures(one_process)) == {"roofline", "model"}
