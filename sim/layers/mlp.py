"""The MLP half of a block: dense, or a mixture of experts."""

import dataclasses

from parplan.hardware.kernels.kernel import MemoryBound
from parplan.sim.layers.ops import Exchange, Op
from parplan.sim.layers.shapes import (
    Shapes,
    chain,
    elementwise,
    enters_region,
    leaves_region,
    linear,
    norm,
    residual,
)
from parplan.sim.models.model import MixtureOfExperts


def mlp_ops(x: Shapes) -> tuple[Op, ...]:
    """Normalisation, up, activation function, down, and the residual sum."""
    width = x.model.ffn_size // x.split
    return (
        norm(x, "mlp norm"),
        *_split_mlp(x, "mlp", width),
        *_post_norm(x),
        residual(x, "mlp residual"),
    )


def parallel_mlp_ops(x: Shapes) -> tuple[Op, ...]:
    """The MLP of a parallel block, and the sum of attention, MLP and residual stream.

    Where it has no normalisation of its own it reads the attention's input: what that operation
    gathers, keeps and reduces serves both.
    """
    up, activation, down = _mlp(x, "mlp", x.tokens, x.model.ffn_size // x.split)
    own: tuple[Op, ...]
    if x.model.block_norms == 2:
        own = (norm(x, "mlp norm"), enters_region(x, up))
    else:
        own = (dataclasses.replace(up, input_bytes=0.0),)
    # The attention's output is read as well.
    size = x.own_hidden_bytes
    both = elementwise("parallel sum", forward_bytes=size, backward_bytes=0.0)
    return (*own, activation, leaves_region(x, down), both, residual(x, "mlp residual"))


def _post_norm(x: Shapes) -> tuple[Op, ...]:
    return (norm(x, "mlp post-norm"),) if x.model.block_norms == 4 else ()


def _split_mlp(x: Shapes, name: str, width: int) -> tuple[Op, ...]:
    """An MLP over all of the rank's tokens, split over the tensor-parallel ranks."""
    up, activation, down = _mlp(x, name, x.tokens, width)
    if x.model.num_up_matrices == 1 or x.software.joint_up_projection:
        return enters_region(x, up), activation, leaves_region(x, down)
    return (*_separate_up(x, name, width), activation, leaves_region(x, down))


def _separate_up(x: Shapes, name: str, width: int) -> tuple[Op, ...]:
    """The two matrices of a gated MLP as two products.

    They read one input, whose two gradients are added up.
    """
    up, gate = (
        linear(x, each, x.tokens, x.model.hidden_size, width, bias=x.model.bias, keeps_input=keeps)
        for each, keeps in ((f"{name} up", True), (f"{name} gate", False))
    )
    added = MemoryBound(num_bytes=3 * x.hidden_bytes)
    # The activation reads the outputs of both.
    gate = dataclasses.replace(
        gate,
        input_gradient=(*gate.input_gradient, added),
        output_bytes=float(x.value_bytes * x.tokens * width),
    )
    return enters_region(x, up), gate if x.sequence_parallel else enters_region(x, gate)


def _mlp(x: Shapes, name: str, tokens: int, width: int, groups: int = 1) -> tuple[Op, ...]:
    m, ups = x.model, x.model.num_up_matrices
    return (
        linear(x, f"{name} up", tokens, m.hidden_size, ups * width, groups=groups, bias=m.bias),
        _activation(x, f"{name} activation", float(groups * tokens * width)),
        linear(x, f"{name} down", tokens, width, m.hidden_size, groups=groups, bias=m.bias),
    )


def _activation(x: Shapes, name: str, values: float) -> Op:
    """The activation function, with the product by the gate where there is one."""
    ups, size = x.model.num_up_matrices, x.value_bytes
    if ups == 1 or x.fused_elementwise:
        return elementwise(
            name,
            forward_bytes=(ups + 1) * size * values,
            # Reads the gradient of the output and the inputs, writes the gradients of the inputs.
            backward_bytes=(2 * ups + 1) * size * values,
            input_bytes=ups * size * values,
            family="activation" if ups > 1 else "copy",
            provider="triton" if ups > 1 else "copy",
            wide=x.is_wide,
        )
    # The function, then the product; backward two products, then the function's own. The function's
    # result is kept as well.
    forward, backward = [2 * size, 3 * size], [3 * size] * 3
    op = chain(name, values, forward, backward, input_bytes=2 * size * values, family="activation")
    return dataclasses.replace(op, inner_bytes=size * values)


def moe_ops(x: Shapes) -> tuple[Op, ...]:
    """Normalisation, router, dispatch, routed and shared experts, combination, residual sum.

    Every expert-parallel rank has an equal share of the experts and, times `expert_load`, of the
    tokens (Lepikhin et al. 2020, GShard, arXiv:2006.16668, section 2).
    """
    moe = x.model.moe
    assert moe is not None
    return (
        norm(x, "mlp norm"),
        _router(x, moe),
        _permute(x, moe, "dispatch", reads_first=True),
        *_routed(x, moe),
        _permute(x, moe, "combine", reads_first=False),
        *_shared(x, moe),
        *_post_norm(x),
        residual(x, "mlp residual"),
    )


def _router(x: Shapes, moe: MixtureOfExperts) -> Op:
    """Scores of all experts for the rank's own tokens, in fp32, and the choice of the best."""
    tokens = max(1, round(x.own_tokens))
    scores = MemoryBound(num_bytes=4 * 4.0 * tokens * moe.num_experts)
    m = x.model
    product = linear(x, "router", tokens, m.hidden_size, moe.num_experts, bias=m.bias)
    return dataclasses.replace(
        product,
        forward=(*product.forward, scores),
        input_gradient=(*product.input_gradient, scores),
        inner_bytes=4.0 * tokens * moe.num_experts,
    )


def _routed_tokens(x: Shapes, moe: MixtureOfExperts) -> float:
    """Tokens, each counted once per expert, that one rank sends and gets."""
    tokens = x.own_tokens if x.sequence_parallel else x.tokens / x.split
    return tokens * moe.top_k * x.expert_load


def _permute(x: Shapes, moe: MixtureOfExperts, name: str, *, reads_first: bool) -> Op:
    """Sorts tokens by expert and sends them to its rank, or takes them back and adds them up."""
    num_bytes = x.value_bytes * _routed_tokens(x, moe) * x.model.hidden_size
    exchanges: tuple[Exchange, ...] = ()
    if x.experts_over > 1:
        once = x.software.expert_dispatch == "nodes"
        exchanges = (
            Exchange(
                group="expert",
                op="all_to_all",
                num_bytes=num_bytes,
                once_per_node=(moe.top_k, moe.num_experts) if once else None,
            ),
        )
    # Once on the sending side and once on the receiving one, where there is one.
    passes = 2 * (2 if x.experts_over > 1 else 1)
    op = elementwise(name, forward_bytes=passes * num_bytes, backward_bytes=passes * num_bytes)
    return dataclasses.replace(
        op,
        forward_exchanges=exchanges,
        backward_exchanges=exchanges,
        # The gradient of the routing weights needs what the experts returned.
        input_bytes=0.0 if reads_first else num_bytes,
    )


def _routed(x: Shapes, moe: MixtureOfExperts) -> tuple[Op, ...]:
    experts = max(1, moe.num_experts // x.experts_over)
    arrived = _routed_tokens(x, moe) * x.expert_split
    tokens = max(1, round(arrived / experts))
    ops = _mlp(x, "experts", tokens, max(1, moe.ffn_size // x.expert_split), experts)
    return tuple(
        dataclasses.replace(op, parameters=0.0, expert_parameters=op.parameters) for op in ops
    )


def _shared(x: Shapes, moe: MixtureOfExperts) -> tuple[Op, ...]:
    if not moe.shared_experts:
        return ()
    return _split_mlp(x, "shared experts", moe.shared_experts * moe.ffn_size // x.split)
