"""Cluster of the machine that a profile was measured on."""

from parplan.errors import ParplanError
from parplan.hardware.estimates.profile import Profile
from parplan.hardware.estimates.profile_lookup import profile_index
from parplan.hardware.kernels.accelerator import Accelerator, DenseRates
from parplan.hardware.kernels.kernel import Gemm, MemoryBound
from parplan.hardware.network.cluster import Cluster, Link, Tier


def cluster_of_profile(profile: Profile, name: str = "here") -> Cluster:
    """The profiled processes, each with its device, as accelerators joined by one tier of links.

    Peak rates are the best that were measured, so their efficiency is 1; the memory bandwidth is
    that of the longest kernel, the link that of the messages between two processes. What was
    measured overrides the model that these make. Raises `ParplanError` naming what was not
    measured.
    """
    machine = profile.machine
    return Cluster(
        name=name,
        accelerator=_accelerator(profile),
        tiers=(Tier(name="machine", size=machine.num_processes, link=_link(profile)),),
        measured=profile_index(profile),
    )


def best_rates(profile: Profile) -> dict[str, float]:
    """The highest FLOP/s of any matrix product, by data type."""
    rates: dict[str, float] = {}
    for measured in profile.kernels:
        if isinstance(measured.kernel, Gemm):
            rate = measured.kernel.flops / measured.timing.seconds
            rates[measured.kernel.dtype] = max(rates.get(measured.kernel.dtype, 0.0), rate)
    return rates


def memory_bytes_per_s(profile: Profile) -> float:
    """Bandwidth of the memory-bound kernel that moves most bytes; `ParplanError` without any."""
    kernels = [m for m in profile.kernels if isinstance(m.kernel, MemoryBound)]
    found = [m for m in kernels if getattr(m.kernel, "family", "") == "copy"] or kernels
    if not found:
        raise ParplanError("profile.kernels: no memory_bound kernel was measured")
    longest = max(found, key=lambda m: m.kernel.num_bytes)
    return longest.kernel.num_bytes / longest.timing.seconds


def message_link(profile: Profile) -> Link | None:
    """Latency of the smallest message, bandwidth of the largest; None for a single process."""
    sends = [
        (m.collective.num_bytes, m.timing.seconds)
        for m in profile.collectives
        if m.collective.op == "send"
    ]
    if not sends:
        return None
    latency_s = min(sends)[1]
    num_bytes, seconds = max(sends)
    if seconds <= latency_s:
        return Link(latency_s=latency_s, bytes_per_s=num_bytes / seconds)
    return Link(latency_s=latency_s, bytes_per_s=num_bytes / (seconds - latency_s))


def _accelerator(profile: Profile) -> Accelerator:
    rates = best_rates(profile)
    if not rates:
        raise ParplanError("profile.kernels: no gemm was measured")
    return Accelerator(
        name=profile.machine.device,
        peak_flop_per_s=DenseRates(**rates),
        memory_bytes=profile.machine.memory_bytes,
        hbm_bytes_per_s=memory_bytes_per_s(profile),
        gemm_efficiency=1.0,
        hbm_efficiency=1.0,
        kernel_launch_s=min(m.timing.seconds for m in profile.kernels),
    )


def _link(profile: Profile) -> Link:
    link = message_link(profile)
    if link is not None:
        return link
    if profile.machine.num_processes > 1:
        raise ParplanError("profile.collectives: no send was measured")
    # Nothing to send to.
    return Link(latency_s=0.0, bytes_per_s=memory_bytes_per_s(profile))
