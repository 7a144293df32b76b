"""The memory that a CPU tracker counts, against allocations that are known."""

import gc

import pytest
import torch
from torch import nn

from parplan.backend.proxies.memory_runs import MemoryWatch
from parplan.backend.proxies.storage_tracker import StorageTracker


def test_storages_count_once_until_they_are_freed() -> None:
    tracker = StorageTracker()
    with tracker:
        first = torch.zeros(1000)
        view = first.view(10, 100)[2:]
        assert tracker.live_bytes == 4000
        del first
        assert tracker.live_bytes == 4000  # The view holds it.
        second = torch.ones(500, dtype=torch.float64)
        assert tracker.live_bytes == 8000
        del view
    del second  # Also after it is left.
    assert (tracker.live_bytes, tracker.peak_bytes) == (0, 8000)


def test_the_peak_holds_what_an_expression_makes_on_its_way() -> None:
    tracker = StorageTracker()
    values = torch.zeros(1000)
    with tracker:
        tracker.add([values, values])
        result = (values + 1) * 2  # Two results are there at once, beside the values.
    assert (tracker.live_bytes, tracker.peak_bytes) == (8000, 12000)
    tracker.reset_peak()
    assert tracker.peak_bytes == 8000
    assert result.sum() == 2000


def test_resized_storages_are_followed() -> None:
    tracker = StorageTracker()
    original = torch.UntypedStorage.resize_
    with tracker:
        values = torch.zeros(1000)
        values.untyped_storage().resize_(0)
        assert tracker.live_bytes == 0
        values.untyped_storage().resize_(8000)
        assert tracker.live_bytes == 8000
    assert torch.UntypedStorage.resize_ is original


@pytest.mark.parametrize("depth", [1, 4])
def test_a_training_step_holds_what_its_tensors_add_up_to(depth: int) -> None:
    rows, width = 64, 128
    layers = [nn.Sequential(nn.Linear(width, width), nn.Tanh()) for _ in range(depth)]
    model = nn.Sequential(*layers)
    optimizer = torch.optim.AdamW(model.parameters(), foreach=False)
    parameters = 4 * sum(p.numel() for p in model.parameters())
    inputs = torch.randn(rows, width)
    watch = MemoryWatch(torch.device("cpu"))
    watch.add(model.parameters())
    for _ in range(2):
        watch.step()
        with watch.watching():
            loss = model(inputs).sum()
            watch.segment("forward")
            loss.backward()
            watch.segment("backward")
            optimizer.step()
            optimizer.zero_grad()
            del loss
            gc.collect()
            watch.segment("optimizer")
    forward, backward, step = watch.segments
    steps = 4 * 2 * len(list(model.parameters()))  # AdamW counts them in a tensor each.
    # Parameters and two moments are there at the start.
    assert watch.base_bytes == pytest.approx(3 * parameters, abs=steps)
    # Of each layer the output of tanh is kept for the backward (and the loss).
    assert forward.change == 4 * rows * width * depth + 4
    assert backward.change == parameters - 4 * rows * width * depth
    # Both ends are what they were, and the step ends where it began.
    assert forward.change + backward.change + step.change == 0
    assert watch.peak_bytes >= watch.base_bytes + parameters
