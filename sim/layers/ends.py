"""What comes before the first block and after the last one."""

import dataclasses

from parplan.hardware.kernels import MemoryBound
from parplan.sim.layers.ops import Exchange, Op
from parplan.sim.layers.shapes import (
    Shapes,
    elementwise,
    enters_region,
    leaves_region,
    linear,
    norm,
)


def embedding_ops(x: Shapes) -> tuple[Op, ...]:
    """Look-up in the rank's part of the vocabulary; positions are added where they are learned."""
    m = x.model
    size = x.hidden_bytes
    passes = 5 if m.learned_positions else 2
    rows = m.vocab_size / x.split + m.learned_positions
    lookup = elementwise("embedding", forward_bytes=passes * size, backward_bytes=0.0)
    # The gradient is scattered into rows: read, and added to what is there.
    scatter = (MemoryBound(num_bytes=3 * size),)
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
    logits = float(x.tokens * vocab)
    # Cast to fp32 and read for the maximum and the sum; backward reads and writes once more.
    loss = elementwise(
        "loss",
        forward_bytes=logits * (x.value_bytes + 3 * 4),
        backward_bytes=logits * (4 + x.value_bytes),
        inner_bytes=4 * logits,
    )
    if x.split > 1:
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
    return norm(x, "final norm"), enters_region(x, projection), loss
