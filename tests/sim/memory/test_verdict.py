"""Verdicts on memory: clear ones, and a margin between them."""

import dataclasses

import pytest

from parplan.hardware.machines.presets import accelerator_preset
from parplan.sim.memory.verdict import (
    ALLOCATOR,
    RESERVE_BYTES,
    is_expected_to_fit,
    share_words,
    verdict_on,
)

H100 = accelerator_preset("h100")
WHOLE = H100.memory_bytes


@pytest.mark.parametrize(
    ("share", "verdict"),
    [
        (0.2, "fits"),
        (0.8, "fits"),
        (0.93, "may fail"),
        (0.96, "may fail"),
        (0.99, "does not fit"),
        (1.5, "does not fit"),
    ],
)
def test_a_verdict_has_a_margin(share: float, verdict: str) -> None:
    assert verdict_on(share * WHOLE, H100) == verdict


def test_what_is_expected_lies_within_the_margin() -> None:
    edge = (WHOLE - RESERVE_BYTES.expected) / ALLOCATOR.expected
    assert is_expected_to_fit(0.999 * edge, H100)
    assert not is_expected_to_fit(1.001 * edge, H100)
    assert verdict_on(edge, H100) == "may fail"


def test_a_small_device_has_less_room_beside_the_reserve() -> None:
    small = dataclasses.replace(H100, memory_bytes=8 * 2**30)
    assert verdict_on(0.6 * small.memory_bytes, small) == "fits"
    assert verdict_on(0.8 * small.memory_bytes, small) == "may fail"


def test_the_memory_of_a_host_has_no_context() -> None:
    cpu = accelerator_preset("cpu")
    assert verdict_on(0.88 * cpu.memory_bytes, cpu) == "fits"


def test_the_words_say_the_share_of_the_memory() -> None:
    assert share_words(0.93 * WHOLE, H100) == "79.1 GB per device (93%)"
