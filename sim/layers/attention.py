"""The attention half of a block."""

from parplan.hardware.kernels import Attention, Gemm, Layout, MemoryBound
from parplan.sim.layers.ops import Exchange, Op
from parplan.sim.layers.shapes import (
    Shapes,
    elementwise,
    enters_region,
    leaves_region,
    linear,
    norm,
    residual,
)

CORE = "attention"
"""The name of scores, softmax and weighted values: what selective recomputation computes again."""


def attention_ops(x: Shapes) -> tuple[Op, ...]:
    """Normalisation, queries, keys and values, attention, projection, and the residual sum."""
    m = x.model
    value_size = m.mla.value_size if m.mla is not None else m.head_size
    first, *others = _latent_projections(x) if m.mla is not None else _projections(x)
    projection = linear(
        x,
        "projection",
        x.tokens,
        m.num_heads * value_size // x.split,
        m.hidden_size,
        # Flash attention keeps its output, and both read the same tensor.
        keeps_input=not x.flash,
        bias=m.bias,
    )
    return (
        norm(x, "attention norm"),
        enters_region(x, first),
        *others,
        _core(x),
        leaves_region(x, projection),
        residual(x, "attention residual"),
    )


def _projections(x: Shapes) -> tuple[Op, ...]:
    m = x.model
    outputs = (m.query_size + 2 * m.kv_size) // x.split
    product = linear(x, "qkv", x.tokens, m.hidden_size, outputs, bias=m.bias)
    if m.learned_positions:
        return (product,)
    rotated = 2 * x.value_bytes * x.tokens * (m.query_size + m.kv_size) / x.split
    return product, elementwise("rotary", forward_bytes=rotated, backward_bytes=rotated)


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
        elementwise("rotary", forward_bytes=rotated + joined, backward_bytes=rotated + joined),
    )


def _core(x: Shapes) -> Op:
    m, split = x.model, x.split
    heads, kv_heads = m.num_heads // split, max(1, m.num_kv_heads // split)
    value_size = m.mla.value_size if m.mla is not None else m.head_size
    operands = x.tokens * (heads * m.head_size + kv_heads * (m.head_size + value_size))
    rings = _ring(x, kv_heads * (m.head_size + value_size))
    if not x.flash:
        return _unfused(x, heads, value_size, x.value_bytes * operands, rings)
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
            direction=direction,
        )
        for direction in ("forward", "backward")
    )
    output = x.value_bytes * x.tokens * heads * value_size
    statistics = 4.0 * x.tokens * heads
    return Op(
        name=CORE,
        forward=(forward,),
        input_gradient=(backward,),
        forward_exchanges=rings,
        backward_exchanges=2 * rings,
        input_bytes=x.value_bytes * operands,
        inner_bytes=output + statistics,
    )


def _unfused(
    x: Shapes, heads: int, value_size: int, operand_bytes: float, rings: tuple[Exchange, ...]
) -> Op:
    """Scores, softmax (scaled and masked in one kernel), dropout, and weighted values."""
    queries, keys, size = x.seq_len // x.context, x.seq_len, x.model.head_size
    batch = x.batch * heads
    scores = float(batch * queries * keys)

    def product(m: int, n: int, k: int, layout: Layout) -> Gemm:
        return Gemm(m=m, n=n, k=k, dtype=x.attention_dtype, batch=batch, transposed=layout)

    mask = scores if x.dropout else 0.0
    softmax = MemoryBound(num_bytes=2 * x.value_bytes * scores)
    dropout = (MemoryBound(num_bytes=2 * x.value_bytes * scores + mask),) if x.dropout else ()
    softmax_back = MemoryBound(num_bytes=3 * x.value_bytes * scores)
    return Op(
        name=CORE,
        forward=(
            product(queries, keys, size, "TN"),
            softmax,
            *dropout,
            product(queries, value_size, keys, "NN"),
        ),
        input_gradient=(
            product(queries, keys, value_size, "TN"),
            product(keys, value_size, queries, "NT"),
            *dropout,
            softmax_back,
            product(queries, size, keys, "NN"),
            product(keys, size, queries, "NT"),
        ),
        forward_exchanges=rings,
        backward_exchanges=2 * rings,
        input_bytes=operand_bytes,
        # The softmax and, with dropout, its mask and what is left of it.
        inner_bytes=x.value_bytes * scores * (2 if x.dropout else 1) + mask,
    )


def _ring(x: Shapes, kv_features: int) -> tuple[Exchange, ...]:
    """Keys and values go round the context-parallel ranks beside the attention.

    Liu et al. 2023 (Ring Attention), arXiv:2310.01889, section 3.
    """
    if x.context == 1:
        return ()
    num_bytes = float(x.value_bytes * x.batch * x.seq_len * kv_features)
    return (Exchange(group="context", op="all_gather", num_bytes=num_bytes, overlaps=True),)
