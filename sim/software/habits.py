"""Implementation choices of training software that a plan does not express."""

from dataclasses import dataclass
from typing import Literal

from parplan.errors import ParplanError


@dataclass(frozen=True, slots=True, kw_only=True)
class Software:
    """Documented habits of a training stack. The defaults are a present-day Megatron-LM's."""

    kernels: Literal["fused", "compiled", "torch"] = "fused"
    """Where norms, rotary positions, activation functions and the loss come from, as far as they
    are one kernel each: hand-written ones (Apex, Transformer Engine, Liger), those of torch.compile
    (Triton), or torch's own."""
    fused_gradient_accumulation: bool = True
    """Whether products of weight gradients add to the buffer of the gradients themselves. Else the
    product is written, and a kernel of its own adds it (as autograd does)."""
    flat_gradients: bool = False
    """Whether each backward joins its gradients into one tensor, which is cast to what is reduced
    and divided (PyTorch's FullyShardedDataParallel, fsdp/_runtime_utils.py)."""
    loss: Literal["whole", "chunked", "fused linear"] = "whole"
    """How the head is computed. Whole: the logits of a micro-batch are one tensor. Chunked: head
    and loss on `LOSS_CHUNKS` parts of the tokens, one after the other, each with its backward, so
    that no logits are kept (torchtitan's ChunkedCELoss). Fused linear: the same in smaller parts,
    whose gradients of input and weights are kept instead (Liger-Kernel's
    fused_linear_cross_entropy; Hsu et al. 2024, arXiv:2410.10989, section 3.2)."""
    keeps_logits: bool = False
    """Whether the 16-bit logits stay until the backward is done, because the trainer holds the
    output of the model (transformers' CausalLMOutput); where `loss` is whole and not fused."""
    master_parameters: bool = True
    """Whether 16-bit parameters have a copy in fp32 that the optimizer updates. Without: training
    in 16 bits alone (torchtune's full fine-tuning)."""
    fp32_shards: bool = False
    """Whether full sharding keeps the fp32 parameters alone and casts what it gathers (PyTorch's
    MixedPrecision and MixedPrecisionPolicy). Else each rank has a shard in 16 bits as well."""
    gathered_units: int = 2
    """Wrapped units (blocks, or an end of the model) that full sharding has whole at a time: the
    one that is computed, and those that are prefetched (PyTorch's fully_shard: the next one)."""
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
    layer_graphs: bool = False
    """Whether layers, or attention and what precedes the dispatch to experts, are graphs of kernels
    (CUDA graphs per layer, cuda_graph_scope attn, moe_router, moe_preprocess of Megatron-LM): the
    host is not late within a layer, and experts wait for no launches."""
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
    sharded_in_lists: bool = False
    """Whether full sharding gathers and reduces every tensor of parameters by itself, as a list of
    its shards of which the host takes each in hand, and waits for the device before each gather, so
    that nothing hides them (DeepSpeed of spring 2021, runtime/zero/partition_parameters.py: a loop
    over the ranks, torch.cuda.synchronize)."""
    gathers_slow_kernels: bool = False
    """Whether gathers and reductions of full sharding are kernels of a library that take cores and
    bandwidth of the kernels beside them (NCCL under PyTorch's FSDP)."""
    recomputation_gathers: bool = False
    """Whether full recomputation frees gathered parameters that its backward then gathers again
    (DeepSpeed's hooks of modules, where a layer has more than stage3_max_reuse_distance)."""
    post_validation: bool = False
    """Whether a pipeline whose schedule splits the backward takes the optimizer step of each rank
    before the norm of all gradients is known, and looks at it in the next step, so that ranks begin
    and end their steps at times of their own (Qi et al. 2023, arXiv:2401.10241, section 4)."""
    pipelines_reduce_once: bool = False
    """Whether a pipeline adds up whole gradients over all micro-batches and reduces them once, also
    where they are sharded (ZeRO-2 and -3). Else every backward is followed by a reduction, and only
    shards are kept."""

    # Of a stack that compiles the graph of a whole step (`moai`).
    kept_activations: float = 1.0
    """What blocks keep for their backward, over what the backward of their operations reads."""
    selective_keeps: float | None = None
    """What of that is kept under selective recomputation; None: all but what the operations that
    the plan names keep."""
    selective_repeats: float | None = None
    """Seconds of selective recomputation over those of the forward; None: of these operations."""
    recomputes_stages: bool = False
    """Whether full recomputation keeps the input of a stage alone, so that in its backward all that
    its blocks keep is there again. Else that of one block."""
    loss_in_place: bool = False
    """Whether the gradient of the logits takes their place."""
    whole_gradients: float | None = None
    """What share of the gradients of parameters that lie whole on a rank (all, or one layer where
    they are sharded) are there at its fullest, the rest being reduced or not yet computed; None:
    all gradients, or shards of them, by the plan."""
    reserved_bytes: float = 0.0
    """Held on every rank from the start of a step to its end, beside what the plan needs: buffers
    of communication and of the runtime."""
    product_share: float | None = None
    """Share of the peak rate that products and attention come close to with many tokens in a
    micro-batch; None: by the model of kernels."""
    half_rate_tokens: float = 0.0
    """Tokens of a micro-batch with which they reach half of that."""
    exposed_exchanges: bool = False
    """Whether nothing is computed while parameters are gathered and gradients are reduced."""
    message_s: float = 0.0
    """Added to every forward and backward of a pipeline, whichever way it goes."""
    exchange_bytes_per_s: float | None = None
    """What a rank sends, and receives, in these exchanges, in a ring; None: by the network."""

    def __post_init__(self) -> None:
        for name in ("kept_activations", "product_share", "exchange_bytes_per_s"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ParplanError(f"{name}: must be positive, got {value}")
        shares = ("selective_keeps", "selective_repeats", "whole_gradients")
        for name in (*shares, "half_rate_tokens", "message_s", "reserved_bytes"):
            if (getattr(self, name) or 0.0) < 0:
                raise ParplanError(f"{name}: must not be negative, got {getattr(self, name)}")
        if self.gathered_units < 1:
            raise ParplanError(f"gathered_units: must be at least 1, got {self.gathered_units}")


LOSS_CHUNKS = 8
"""Parts of the tokens of a chunked loss: torchtune's CEWithChunkedOutputLoss and torchtitan's
ChunkedCELoss have 8 by default."""

MEGATRON = Software()

TORCH = Software(
    fused_gradient_accumulation=False,
    overlap_tensor_gradients=False,
    pipelines_reduce_once=True,
)
"""Stock PyTorch as `parplan.backend` runs it (torch 2.13): autograd adds gradients, eager DTensor
waits for its exchanges, and torch.distributed.pipelining reduces the gradients of fully_shard once
per stage and step, after the last backward (REDUCE_GRAD in its schedules.py)."""
