"""Kernels bound by memory in a profile: each family by its own measurements."""

import pytest

from parplan.hardware.estimates.profile import CollectiveCall
from parplan.hardware.estimates.profile_lookup import profile_index
from parplan.hardware.kernels.kernel import Direction, Family, Kernel, MemoryBound, Provider
from parplan.hardware.machines.from_profile import cluster_of_profile
from tests.hardware.test_profile import gemm, profile_of, send


def test_a_family_is_predicted_by_its_own_measurements() -> None:
    """Norms of torch at half of the rate of copies; what was not measured goes by its nearest."""
    sizes = (2.0**16, 2.0**20, 2.0**24)
    copies: dict[Kernel | CollectiveCall, float] = {
        MemoryBound(num_bytes=n): n / 10e9 for n in sizes
    }
    norms: dict[Kernel | CollectiveCall, float] = {
        MemoryBound(num_bytes=n, family="norm", provider="torch"): n / 5e9 for n in sizes
    }
    index = profile_index(profile_of({**copies, **norms}))

    def rate(family: Family, provider: Provider, direction: Direction = "forward") -> float:
        asked = MemoryBound(
            num_bytes=2.0**18, family=family, provider=provider, direction=direction
        )
        answer = index.kernel(asked)
        assert answer is not None
        return asked.num_bytes / answer.seconds

    assert rate("norm", "torch") == pytest.approx(5e9)
    assert rate("norm", "triton") == pytest.approx(5e9)
    assert rate("copy", "copy", "backward") == pytest.approx(10e9)
    of_copies = profile_index(profile_of(copies)).kernel(
        MemoryBound(num_bytes=2.0**20, family="norm", provider="torch")
    )
    assert of_copies is not None
    assert of_copies.seconds == pytest.approx(2.0**20 / 10e9)
    fast = {kernel: s / 4 for kernel, s in norms.items()}
    machine = {gemm(64, 64, 64): 1e-5, send(1024): 1e-4, send(2**20): 1e-3}
    cluster = cluster_of_profile(profile_of({**copies, **fast, **machine}))
    assert cluster.accelerator.hbm_bytes_per_s == pytest.approx(10e9)
