"""Implementation choices of training software that a plan does not express."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class Software:
    """Documented habits of a training stack. The defaults are a present-day Megatron-LM's."""

    fused_gradient_accumulation: bool = True
    """Whether products of weight gradients add to the buffer of the gradients themselves. Else the
    product is written, and a kernel of its own adds it (as autograd does)."""
    flat_gradients: bool = False
    """Whether each backward joins its gradients into one tensor, which is cast to what is reduced
    and divided (PyTorch's FullyShardedDataParallel, fsdp/_runtime_utils.py)."""
    low_precision_gradients: bool = False
    """Whether 16-bit gradients of all parameters lie beside those that are added up (DeepSpeed's
    BF16_Optimizer)."""
    overlap_tensor_gradients: bool = True
    """Whether tensor-parallel exchanges of a backward run beside the products of weight
    gradients (Megatron-LM's asynchronous all-reduce)."""
    joint_up_projection: bool = True
    """Whether the two matrices of a gated MLP are one product. Of two, each reduces the gradient
    of its input, unless sequence parallelism gathers the input before both."""
    recomputed_head: bool = False
    """Whether full recomputation computes the output projection again too, not blocks alone."""
    parallel_loss: bool = True
    """Whether tensor-parallel ranks compute the loss on their part of the vocabulary each. Else
    the logits are gathered, and every rank computes all of it."""
    blocking_launches: bool = False
    """Whether the host waits for each kernel before it launches the next one
    (CUDA_LAUNCH_BLOCKING=1), so that host and device take turns."""
    step_graph: bool = False
    """Whether a whole step is one graph of kernels (CUDA graphs of a full iteration): the host
    launches nothing within it, and experts wait for no host."""
    expert_dispatch: Literal["copies", "nodes"] = "copies"
    """Whether a copy of a token is sent to each of its experts, or one to each node of them, where
    each rank of them gets one (DeepEP, HybridEP)."""
    overlap_expert_exchange: bool = False
    """Whether exchanges of experts run beside the kernels of another micro-batch that goes the
    other way (Megatron-LM's overlap_moe_expert_parallel_comm)."""
    whole_reduction: bool = False
    """Whether ZeRO-1 reduces all gradients to all ranks, not each part to its owner."""
    fp32_reduction: bool = False
    """Whether gradients are cast to fp32 to be reduced, and back."""
    pipelines_reduce_once: bool = False
    """Whether a pipeline adds up whole gradients over all micro-batches and reduces them once, also
    where they are sharded (ZeRO-2 and -3). Else every backward is followed by a reduction, and only
    shards are kept."""


MEGATRON = Software()

TORCH = Software(
    fused_gradient_accumulation=False,
    overlap_tensor_gradients=False,
    pipelines_reduce_once=True,
)
"""Stock PyTorch as `parplan.backend` runs it (torch 2.13): autograd adds gradients, eager DTensor
waits for its exchanges, and torch.distributed.pipelining reduces the gradients of fully_shard once
per stage and step, after the last backward (REDUCE_GRAD in its schedules.py)."""
