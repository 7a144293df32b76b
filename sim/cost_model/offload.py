"""Offloading to host memory and its transfers.

Optimizer: Ren et al. 2021 (ZeRO-Offload, arXiv:2101.06840), sections 4 and 5. Activations: Rhu et
al. 2016 (vDNN, arXiv:1602.08124), section III: layer by layer, beside the computation.
"""

from collections.abc import Sequence

from parplan.errors import ParplanError
from parplan.hardware.kernels.accelerator import Accelerator
from parplan.sim.layers.blocks import Ops, recomputed_ops
from parplan.sim.layers.ops import kept_bytes
from parplan.sim.plan import Plan

Kept = Sequence[tuple[float, int]]
"""Bytes that a kind of block keeps from forward to backward, and how many such blocks there are."""


def host_rate(accelerator: Accelerator, what: str) -> float:
    """Bytes/s between device and host; raises `ParplanError` for `what` where it is not known."""
    if accelerator.host_bytes_per_s is None:
        raise ParplanError(
            f"plan: {what}: the accelerator {accelerator.name} has no host_bytes_per_s"
        )
    return accelerator.host_bytes_per_s


def kept_of_blocks(plan: Plan, blocks: Sequence[tuple[Ops, bool, int]]) -> Kept:
    """Kept activations of blocks given as operations, whether recomputed, and their number."""
    return [
        (kept_bytes(ops, recomputed_ops(plan, ops) if again else frozenset()), count)
        for ops, again, count in blocks
    ]


def offloaded_bytes(blocks: Kept) -> float:
    """Bytes that one micro-batch moves to the host in its forward, and back in its backward."""
    return sum(count * kept for kept, count in blocks)


def buffer_bytes(blocks: Kept) -> float:
    """Bytes of offloaded activations on the device in a backward: of this block and the next."""
    largest = max((kept for kept, _ in blocks), default=0.0)
    return min(offloaded_bytes(blocks), 2 * largest)


def exposed_s(compute_s: float, transfer_s: float, num_blocks: int) -> float:
    """Seconds of transfers of `num_blocks` equal blocks that their computation does not hide.

    One block is moved while another one is computed, so that of one the transfer is exposed, and of
    the others what exceeds their computation.
    """
    if not num_blocks:
        return 0.0
    compute, transfer = compute_s / num_blocks, transfer_s / num_blocks
    return transfer + (num_blocks - 1) * max(0.0, transfer - compute)


def host_optimizer_s(
    accelerator: Accelerator, *, update_bytes: float, down_bytes: float, up_bytes: float
) -> float:
    """Seconds of an optimizer step in the host's memory.

    down_bytes: gradients, which go there first; up_bytes: new parameters, which go back in tiles
    beside the update (section 5.1); update_bytes: read and written by it, which is bound by the
    memory of the host. Raises `ParplanError` where the rate to the host is not known.
    """
    rate = host_rate(accelerator, "offload_optimizer")
    update_s = update_bytes / accelerator.host_memory_bytes_per_s
    return down_bytes / rate + max(update_s, up_bytes / rate)
