"""Layers before the first block and after the last one."""

import dataclasses

from parplan.hardware.kernels.kernel import MemoryBound
from parplan.sim.layers.ops import Exchange, Op
from parplan.sim.layers.shapes import (
    Shapes,
    accumulated,
    chain,
    elementwise,
    enters_region,
    leaves_region,
    linear,
    norm,
)
from parplan.sim.software.habits import LOSS_CHUNKS


def embedding_ops(x: Shapes) -> tuple[Op, ...]:
    """Look-up in the rank's part of the vocabulary; positions are added where they are learned."""
    m = x.model
    size = x.hidden_bytes
    passes = 5 if m.learned_positions else 2
    rows = m.vocab_size / x.split + m.learned_positions
    lookup = elementwise(
        "embedding",
        forward_bytes=passes * size,
        backward_bytes=0.0,
        family="embedding",
        provider="torch",
        wide=x.is_wide,
    )
    # The gradient is scattered into rows of zeros: read, and added to what is there. The whole
    # table is then added to that of earlier micro-batches.
    table = x.value_bytes * rows * m.hidden_size
    scatter = (
        *(
            MemoryBound(
                num_bytes=n,
                family="embedding",
                provider="torch",
                direction="backward",
                wide=x.is_wide,
            )
            for n in (table, 3 * size)
        ),
        *accumulated(x, rows * m.hidden_size),
    )
    op = dataclasses.replace(
        lookup, weight_gradient=() if x.frozen else scatter, parameters=rows * m.hidden_size
    )
    op = leaves_region(x, op)
    if not x.dropout:
        return (op,)
    mask = x.own_tokens * m.hidden_size
    moved = 2 * x.own_hidden_bytes + mask
    dropout = elementwise(
        "embedding dropout", forward_bytes=moved, backward_bytes=moved, inner_bytes=mask
    )
    return op, dropout


def head_ops(x: Shapes) -> tuple[Op, ...]:
    """Final normalisation, projection to the vocabulary, and the loss on fp32 logits."""
    m = x.model
    vocab = -(-m.vocab_size // x.split)
    is_gathered = x.split > 1 and not x.software.parallel_loss
    loss = _loss(x, float(x.tokens * (m.vocab_size if is_gathered else vocab)))
    if is_gathered and x.software.loss == "whole":
        # The rank's own part and those of the others, before they are joined: torch's allocator has
        # them as blocks of their own, too small for what the loss works with.
        parts = x.value_bytes * (1 + 1 / x.split) * x.tokens * m.vocab_size
        loss = dataclasses.replace(loss, working_bytes=loss.working_bytes + parts)
    if x.split > 1 and not is_gathered:
        # The maximum, the sum and the target's logit of every token, in fp32.
        statistics = tuple(
            Exchange(group="tensor", op="all_reduce", num_bytes=4.0 * x.tokens) for _ in range(3)
        )
        loss = dataclasses.replace(loss, forward_exchanges=statistics)
    # Kept in 16 bits also where the blocks compute in 8.
    wide = dataclasses.replace(x, dtype=x.attention_dtype)
    projection = linear(wide, "vocabulary projection", x.tokens, m.hidden_size, vocab)
    if m.tied_embeddings:
        projection = dataclasses.replace(projection, parameters=0.0)
    if is_gathered:
        projection = _gathered(x, projection)
    return norm(x, "final norm"), enters_region(x, projection), loss


def _gathered(x: Shapes, projection: Op) -> Op:
    """The projection with its logits gathered over the tensor-parallel ranks and joined.

    Of their gradient each rank takes its part.
    """
    size = x.value_bytes * float(x.tokens * x.model.vocab_size)
    part = MemoryBound(num_bytes=2 * size / x.split)
    return dataclasses.replace(
        projection,
        forward=(*projection.forward, MemoryBound(num_bytes=2 * size)),
        input_gradient=(part, *projection.input_gradient),
        forward_exchanges=(Exchange(group="tensor", op="all_gather", num_bytes=size),),
    )


def _loss(x: Shapes, logits: float) -> Op:
    """Cross-entropy of fp32 logits, whose softmax is kept."""
    whole = _whole_loss(x, logits)
    if x.software.loss == "whole":
        return whole
    # Each part is done with its backward before the next one: the gradients are kept instead.
    working = (whole.inner_bytes + whole.working_bytes) / LOSS_CHUNKS
    inner = x.hidden_bytes
    if x.software.loss == "fused linear":
        # Parts of about as many logits as the input has values.
        working = min(working, 3 * x.hidden_bytes)
        inner += x.value_bytes * x.model.hidden_size * x.model.vocab_size / x.split
    return dataclasses.replace(whole, inner_bytes=inner, working_bytes=working)


def _whole_loss(x: Shapes, logits: float) -> Op:
    size, beside = x.value_bytes, not x.software.loss_in_place
    if x.fused_loss:
        # Cast and read for the maximum and the sum; backward reads and writes once more.
        op = elementwise(
            "loss",
            forward_bytes=logits * (size + 3 * 4),
            backward_bytes=logits * (4 + size),
            inner_bytes=4 * logits,
            family="loss",
            provider="triton" if x.software.kernels == "compiled" else "megatron",
        )
        return dataclasses.replace(op, working_bytes=beside * size * logits)
    # Cast, logarithm of the softmax; its gradient from two operands, cast back.
    op = chain("loss", logits, (size + 4, 4 + 4), (3 * 4, 4 + size), family="loss")
    # Backward: the gradients of the softmax's logarithm and of its input, both in fp32.
    held = size * logits if x.software.keeps_logits else 0.0
    working = beside * (4 + 4) * logits
    return dataclasses.replace(op, inner_bytes=4 * logits + held, working_bytes=working)
