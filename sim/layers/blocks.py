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


def block_ops(x: Shapes, kind: LayerKind) -> Ops:
    """The operations of one block, in the order of its forward."""
    local = is_local(kind)
    if x.model.parallel_block:
        return (*parallel_attention_ops(x, local=local), *parallel_mlp_ops(x))
    after = moe_ops(x) if has_experts(kind) else mlp_ops(x)
    return (*attention_ops(x, local=local), *after)


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
