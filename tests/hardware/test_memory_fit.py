"""Kernels bound by memory: known shares come back, and how close the shipped ones are."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from parplan.errors import ParplanError
from parplan.experiments.fits.memory_fit import MemoryFit, fit_memory, fit_memory_file, memory_toml
from parplan.experiments.fits.memory_microbench import (
    DATA,
    MemoryMeasurement,
    bound_by_host,
    read_memory_measurements,
)
from parplan.hardware.estimates.kernel_times import kernel_s
from parplan.hardware.kernels.kernel import MemoryBound
from parplan.hardware.kernels.memory_efficiency import CONSTANTS, memory_efficiency
from parplan.hardware.machines.presets import accelerator_preset

MEASUREMENTS, OF_HOST, FIT = fit_memory_file(None)


def row(seconds: float, size: float, **fields: object) -> MemoryMeasurement:
    given = {
        "accelerator": "a100",
        "family": "norm",
        "provider": "triton",
        "op": "a norm",
        "forward_bytes": size,
        "backward_bytes": 0.0,
        "seconds": seconds,
        "shape": f"{size}",
        "series": "one",
    }
    return MemoryMeasurement(**{**given, **fields})  # type: ignore[arg-type]


def test_the_shipped_constants_are_those_of_the_shipped_measurements() -> None:
    assert memory_toml(FIT, MEASUREMENTS) == CONSTANTS.read_text()


def test_shapes_that_were_held_out_are_predicted() -> None:
    """Median of the error at most 12 %; nine tenths within a half, the goal of 35 % is missed."""
    held_out = [m for m in MEASUREMENTS if m.held_out]
    assert 0.2 < len(held_out) / len(MEASUREMENTS) < 0.5
    errors = np.abs(FIT.predict(held_out) / np.array([m.seconds for m in held_out]) - 1)
    assert np.median(errors) <= 0.12
    assert np.quantile(errors, 0.9) <= 0.5


def test_a_held_out_row_moves_no_constant() -> None:
    changed = [
        dataclasses.replace(m, seconds=7 * m.seconds) if m.held_out else m for m in MEASUREMENTS
    ]
    assert np.array_equal(fit_memory(changed).logs, FIT.logs)


def test_known_shares_come_back() -> None:
    fit = MemoryFit(MEASUREMENTS)
    rng = np.random.default_rng(1)
    fit.logs = np.log(rng.uniform(0.3, 0.9, len(fit.names)))
    seconds = fit.predict(MEASUREMENTS)
    made = [
        dataclasses.replace(m, seconds=float(s)) for m, s in zip(MEASUREMENTS, seconds, strict=True)
    ]
    found = fit_memory(made)
    held_out = [m for m in made if m.held_out]
    measured = np.array([m.seconds for m in held_out])
    assert np.quantile(np.abs(found.predict(held_out) / measured - 1), 0.9) < 0.05


def test_rows_that_do_not_grow_are_of_the_host() -> None:
    rows = [row(1e-4, 1e6), row(1.1e-4, 2e6), row(2e-4, 4e6), row(4e-4, 8e6)]
    assert bound_by_host(rows) == {rows[0]}
    assert bound_by_host(rows[:2]) == set(rows[:2])
    alone = row(1e-4, 1e6, series="another")
    assert alone not in bound_by_host([*rows, alone])
    assert OF_HOST > 0


def test_a_kernel_takes_its_bytes_at_its_share() -> None:
    device = accelerator_preset("h100")
    constants = memory_efficiency("nvidia-hopper")
    assert constants is not None
    kernel = MemoryBound(num_bytes=1e9, family="norm", provider="triton", direction="backward")
    share = constants.shares["norm.triton"].backward * constants.factors["triton"]
    expected = device.kernel_launch_s + 1e9 / (device.hbm_bytes_per_s * share)
    assert kernel_s(device, kernel) == pytest.approx(expected)
    wide_s = kernel_s(device, dataclasses.replace(kernel, wide=True)) - device.kernel_launch_s
    assert constants.wide["triton"] > 1
    assert wide_s * constants.wide["triton"] == pytest.approx(expected - device.kernel_launch_s)
    forward = dataclasses.replace(kernel, direction="forward")
    assert kernel_s(device, forward) < kernel_s(device, kernel)
    plain = kernel_s(dataclasses.replace(device, memory=None), kernel)
    assert plain == kernel_s(device, MemoryBound(num_bytes=1e9))


def test_accelerators_of_which_nothing_is_known_stream_as_before() -> None:
    for name in ("mi300x", "tpu-v5p"):
        device = accelerator_preset(name)
        assert device.memory is None
        kernel = MemoryBound(num_bytes=1e9, family="loss", provider="eager")
        assert kernel_s(device, kernel) == kernel_s(device, MemoryBound(num_bytes=1e9))


def test_every_row_has_a_source_and_mistakes_a_line(tmp_path: Path) -> None:
    lines = DATA.read_text().splitlines()
    assert all(json.loads(line)["source_where"] for line in lines)
    wrong = json.loads(lines[0])
    del wrong["config"]
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join([lines[1], json.dumps(wrong)]))
    with pytest.raises(ParplanError, match="line 2: not a measurement"):
        read_memory_measurements(path)
    path.write_text("")
    with pytest.raises(ParplanError, match="no row of kind"):
        read_memory_measurements(path)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("[accelerators.a]\n[wide]\ntorch = -1", "wide.torch: expected a positive number"),
        ("[accelerators.a]\ntriton = 0", "accelerators.a.triton: expected a positive number"),
        ("[accelerators.a]\n[share.norm.triton]\nforward = 0.5", "missing key 'backward'"),
        ("[accelerators.a]\n[share.norm.triton]\nforward = 9\nbackward = 1", "share up to 4"),
    ],
)
def test_constants_are_read_strictly(tmp_path: Path, text: str, error: str) -> None:
    path = tmp_path / "constants.toml"
    path.write_text(text)
    with pytest.raises(ParplanError, match=error):
        memory_efficiency("a", path)
