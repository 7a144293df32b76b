"""The layers of a model, and which of their operations a plan computes again."""

from parplan.errors import ParplanError
from parplan.sim.layers.attention import attention_ops, parallel_attention_ops
from parplan.sim.layers.ends import embedding_ops, head_ops
from parplan.sim.layers.mlp import mlp_ops, moe_ops, parallel_mlp_ops
from parplan.sim.layers.ops import Op
from parplan.sim.layers.shapes import Shapes
from parplan.sim.models.parts import LayerKind, has_experts, is_local
from parplan.sim.plan import Plan

Ops = tuple[Op, ...]

PERMUTATIONS = ("dispatch", "combine")

__all__ = ["Ops", "block_ops", "embedding_ops", "head_ops", "recomputed_ops"]


KnownOps = dict[str, Ops]
"""Operations that do not depend on how experts are divided, by kind of layer, and of attention."""


def block_ops(x: Shapes, kind: LayerKind, known: KnownOps | None = None) -> Ops:
    """The operations of one block, in the order of its forward.

    `known`: those of shapes that differ in how experts are divided alone, which it adds to.
    """
    known = {} if known is None else known
    if has_experts(kind):
        local = "local" if is_local(kind) else "whole"
        if local not in known:
            known[local] = attention_ops(x, local=is_local(kind))
        return (*known[local], *moe_ops(x))
    if kind not in known:
        known[kind] = _plain_ops(x, local=is_local(kind))
    return known[kind]


def _plain_ops(x: Shapes, *, local: bool) -> Ops:
    """Those of a block without experts."""
    if x.model.parallel_block:
        return (*parallel_attention_ops(x, local=local), *parallel_mlp_ops(x))
    return (*attention_ops(x, local=local), *mlp_ops(x))


def recomputed_ops(plan: Plan, ops: Ops) -> frozenset[str]:
    """The names of the operations of a recomputed block that run again in its backward.

    Raises `ParplanError` when the plan names operations of which the block has none.
    """
    names = frozenset(op.name for op in ops)
    if plan.recomputation == "none":
        return frozenset()
    if plan.recomputation == "full":
        # The loss of a head that is recomputed comes after the checkpoint.
        return names - {"loss"}
    chosen = names & frozenset(plan.recomputed_ops)
    # What came from other ranks is kept: no all-to-all is repeated.
    chosen -= {op.name for op in ops if op.name in PERMUTATIONS and op.forward_exchanges}
    if plan.recomputed_ops and not chosen:
        raise ParplanError(
            f"recomputed_ops: {', '.join(plan.recomputed_ops)}: the block has "
            f"{', '.join(op.name for op in ops)}"
        )
    return chosen
