"""Kernels bound by memory by what they compute: each runs and moves its bytes."""

from typing import get_args

import pytest

torch = pytest.importorskip("torch")

from parplan.backend.calibration.grid import MEASURED, CalibrationSettings, grid  # noqa: E402
from parplan.backend.calibration.kernel_runs import kernel_run  # noqa: E402
from parplan.backend.calibration.memory_runs import KERNELS, WIDTH, memory_bound_run  # noqa: E402
from parplan.backend.calibration.operands import Operands  # noqa: E402
from parplan.hardware.kernels.kernel import Direction, MemoryBound  # noqa: E402
from parplan.sim.models.model import model_preset  # noqa: E402

ALL = [(*kind, direction) for kind in MEASURED for direction in get_args(Direction)]


def test_a_grid_has_what_can_be_run() -> None:
    assert set(KERNELS) == set(ALL)
    settings = CalibrationSettings(
        model=model_preset("gpt-tiny"), seq_len=64, processes=1, grid="quick"
    )
    for device in ("cpu", "cuda"):
        found = [k for k in grid(settings, device) if isinstance(k, MemoryBound)]
        kinds = {(k.family, k.provider, k.direction) for k in found if k.family != "copy"}
        assert kinds == set(ALL)
        assert all(len({k.num_bytes for k in found if k.family == f}) > 1 for f, _ in MEASURED)


@pytest.mark.parametrize("kind", ALL)
def test_every_family_runs(kind: tuple[str, str, Direction]) -> None:
    family, provider, direction = kind
    kernel = MemoryBound(num_bytes=2.0**16, family=family, provider=provider, direction=direction)  # type: ignore[arg-type]
    operands = Operands(torch.device("cpu"))
    kernel_run(kernel, operands)(3)
    with pytest.raises(KeyError):
        memory_bound_run(MemoryBound(num_bytes=8.0, family="norm", provider="megatron"), operands)


def test_a_norm_is_that_of_torch_over_as_many_rows_as_it_moves_bytes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[tuple[int, ...]] = []
    real = torch.nn.functional.layer_norm

    def layer_norm(values: "torch.Tensor", *args: object) -> "torch.Tensor":
        seen.append(tuple(values.shape))
        return real(values, *args)

    monkeypatch.setattr(torch.nn.functional, "layer_norm", layer_norm)
    num_bytes = 2 * 4.0 * 32 * WIDTH["cpu"]
    kernel = MemoryBound(num_bytes=num_bytes, family="norm", provider="torch")
    kernel_run(kernel, Operands(torch.device("cpu")))(2)
    assert seen == [(32, WIDTH["cpu"])] * 2
