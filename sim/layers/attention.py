"""The attention half of a block."""

import dataclasses

from parplan.hardware.kernels.kernel import Attention, Kernel, MemoryBound
from parplan.sim.layers.ops import CORE, Exchange, Op
from parplan.sim.layers.shapes import (
    Shapes,
    chain,
    elementwise,
    enters_region,
    fused_provider,
    leaves_region,
    linear,
    norm,
    residual,
)

FLASH = ("flash", "flash-2", "flash-1", "flash-triton")

SLOWDOWN = {
    ("flash-1", "forward"): 2.0,
    ("flash-1", "backward"): 2.0,
    ("flash-triton", "forward"): 1.4,
    ("flash-triton", "backward"): 2.0,
}
"""Time over FlashAttention-2's: "around 2x", in Triton "1.3-1.5x" forward and "around 2x" backward
(Dao 2023, arXiv:2307.08691, section 4.1)."""


def attention_ops(x: Shapes, *, local: bool = False) -> tuple[Op, ...]:
    """Normalisation, queries, keys and values, attention, projection, and the residual sum.

    local: whether each token attends to the model's window alone.
    """
    m = x.model
    first, *others = _qkv(x)
    after = (norm(x, "attention post-norm"),) if m.block_norms == 4 else ()
    return (
        norm(x, "attention norm"),
        enters_region(x, first),
        *others,
        _core(x, local),
        leaves_region(x, _projection(x)),
        *after,
        residual(x, "attention residual"),
    )


def parallel_attention_ops(x: Shapes, *, local: bool = False) -> tuple[Op, ...]:
    """The same of a parallel block: its partial sums are added to the MLP's, and summed with it."""
    first, *others = _qkv(x)
    return (
        norm(x, "attention norm"),
        enters_region(x, first),
        *others,
        _core(x, local),
        _projection(x),
    )


def _qkv(x: Shapes) -> tuple[Op, ...]:
    ops = _latent_projections(x) if x.model.mla is not None else _projections(x)
    return (*ops, _query_key_norm(x)) if x.model.query_key_norm else ops


def _projection(x: Shapes) -> Op:
    m = x.model
    value_size = m.mla.value_size if m.mla is not None else m.head_size
    return linear(
        x,
        "projection",
        x.tokens,
        m.num_heads * value_size // x.split,
        m.hidden_size,
        # Flash attention keeps its output, and both read the same tensor.
        keeps_input=x.attention not in FLASH,
        casts_input=True,
        bias=m.bias,
    )


def _query_key_norm(x: Shapes) -> Op:
    """Every head's query and key is normalised: reads and writes, as `norm` does."""
    m = x.model
    size = x.value_bytes * x.tokens * (m.query_size + m.kv_size) / x.split
    return elementwise(
        "query and key norm",
        forward_bytes=2 * size,
        backward_bytes=3 * size,
        input_bytes=size,
        parameters=2 * m.head_size,
        family="norm",
        provider=fused_provider(x),
        wide=x.is_wide,
    )


def _projections(x: Shapes) -> tuple[Op, ...]:
    m = x.model
    outputs = (m.query_size + 2 * m.kv_size) // x.split
    product = linear(x, "qkv", x.tokens, m.hidden_size, outputs, bias=m.bias or m.qkv_bias)
    if m.learned_positions or m.alibi:
        return (product,)
    values = x.tokens * (m.query_size + m.kv_size) / x.split
    if x.fused_elementwise:
        rotated = 2 * x.value_bytes * values
        return product, _rotary(x, rotated)
    # Times the cosine; half of it negated and joined to the other half; times the sine; the sum.
    passes = [x.value_bytes * each for each in (2, 1, 2, 2, 3)]
    return product, chain("rotary", values, passes, passes, family="rotary")


def _rotary(x: Shapes, num_bytes: float) -> Op:
    """Rotary positions in one kernel, which moves so many bytes in each direction."""
    return elementwise(
        "rotary",
        forward_bytes=num_bytes,
        backward_bytes=num_bytes,
        family="rotary",
        provider="triton",
        wide=x.is_wide,
    )


def _latent_projections(x: Shapes) -> tuple[Op, ...]:
    """Down to the ranks on every tensor-parallel rank, up to the rank's own heads."""
    m, latent = x.model, x.model.mla
    assert latent is not None
    heads = m.num_heads // x.split
    queries: tuple[Op, ...]
    if latent.query_rank:
        queries = (
            linear(x, "query down", x.tokens, m.hidden_size, latent.query_rank),
            linear(x, "query up", x.tokens, latent.query_rank, heads * m.head_size),
        )
    else:
        queries = (linear(x, "query", x.tokens, m.hidden_size, heads * m.head_size),)
    down = latent.kv_rank + latent.rope_size
    up = heads * (latent.nope_size + latent.value_size)
    rotated = 2 * x.value_bytes * x.tokens * (heads + 1) * latent.rope_size
    # Keys are put together from their two parts for every head.
    joined = 2 * x.value_bytes * x.tokens * heads * m.head_size
    return (
        *queries,
        linear(x, "kv down", x.tokens, m.hidden_size, down, keeps_input=False),
        linear(x, "kv up", x.tokens, latent.kv_rank, up),
        _rotary(x, rotated + joined),
    )


def _core(x: Shapes, local: bool) -> Op:
    m, split = x.model, x.split
    heads, kv_heads = m.num_heads // split, max(1, m.num_kv_heads // split)
    value_size = m.mla.value_size if m.mla is not None else m.head_size
    forward, backward = (
        Attention(
            batch=x.batch,
            heads=heads,
            kv_heads=kv_heads,
            query_len=max(1, x.seq_len // x.context),
            key_len=x.seq_len,
            head_size=m.head_size,
            value_size=value_size,
            dtype=x.attention_dtype,
            flash=x.attention in FLASH,
            synchronous=x.attention in FLASH[1:],
            slowdown=SLOWDOWN.get((x.attention, direction), 1.0),
            direction=direction,
            window=m.local.window if local and m.local is not None else None,
        )
        for direction in ("forward", "backward")
    )
    rings = _ring(x, kv_heads * (m.head_size + value_size))
    operands = x.tokens * (heads * m.head_size + kv_heads * (m.head_size + value_size))
    op = Op(
        name=CORE,
        forward=(forward,),
        input_gradient=(backward,),
        forward_exchanges=rings,
        backward_exchanges=2 * rings,
        input_bytes=x.value_bytes * operands,
        # The output, and the logarithm of each row's sum in fp32.
        inner_bytes=x.tokens * heads * (x.value_bytes * value_size + 4.0),
    )
    return op if x.attention in FLASH else _with_scores(x, op, heads)


def _with_scores(x: Shapes, op: Op, heads: int) -> Op:
    """Attention that writes its scores: dropout, and what else is not fused into the softmax."""
    scores = float(x.batch * heads * (x.seq_len // x.context) * x.seq_len)
    size = x.value_bytes * scores
    forward: list[Kernel] = []
    # The gradient of the scores, as it comes and as it goes on.
    inner, working = size, 2 * size
    if x.dropout:
        forward.append(MemoryBound(num_bytes=2 * size + scores))
        inner += size + scores
    if x.attention == "eager":
        # Scale and mask in the precision of the products, the softmax in fp32 and cast back.
        forward += [MemoryBound(num_bytes=2 * size), MemoryBound(num_bytes=2 * size)]
        forward += [MemoryBound(num_bytes=size + 4 * scores)] * 2
        inner += 4 * scores
        working += 2 * 4 * scores
    return dataclasses.replace(
        op,
        forward=(*op.forward, *forward),
        input_gradient=(*op.input_gradient, *forward),
        inner_bytes=inner,
        working_bytes=working,
    )


def _ring(x: Shapes, kv_features: int) -> tuple[Exchange, ...]:
    """Keys and values go round the context-parallel ranks beside the attention.

    Liu et al. 2023 (Ring Attention), arXiv:2310.01889, section 3.
    """
    if x.context == 1:
        return ()
    num_bytes = float(x.value_bytes * x.batch * x.seq_len * kv_features)
    return (Exchange(group="context", op="all_gather", num_bytes=num_bytes, overlaps=True),)
