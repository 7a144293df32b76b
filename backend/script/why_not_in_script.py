"""Plans that a training script with its own optimizer can use."""

from parplan.backend.executable import reduces_by_hooks
from parplan.backend.models.chain import Chain
from parplan.backend.models.gpt import Block
from parplan.backend.runtime.tensor_parallel import check_splittable
from parplan.errors import ParplanError
from parplan.sim.plan import Plan


def why_not_in_script(plan: Plan, chain: Chain, *, planned_now: bool) -> str:
    """The reason why `plan` cannot train the script's model, in one line; empty if it can.

    planned_now: whether the optimizer is made after the plan.
    """
    if plan.tensor_parallel > 1:
        if not any(isinstance(layer, Block) for layer in chain.layers):
            return (
                f"tensor_parallel {plan.tensor_parallel} splits parplan's own layers alone "
                "(parplan.backend.models.gpt)"
            )
        try:
            check_splittable(chain.layers, plan.tensor_parallel)
        except ParplanError as error:
            return str(error).removeprefix("plan: ")
        if not planned_now:
            return (
                f"tensor_parallel {plan.tensor_parallel} replaces the parameters; pass "
                "example=(inputs, targets) and make the optimizer after this line"
            )
    if plan.context_parallel > 1 and not any(isinstance(layer, Block) for layer in chain.layers):
        return (
            f"context_parallel {plan.context_parallel} spreads parplan's own layers alone "
            "(parplan.backend.models.gpt)"
        )
    if plan.replicas == 1:
        return ""
    if plan.zero_stage == 1:
        return (
            "distribute_param alone (ZeRO-1) shards the optimizer, which is the script's; "
            "add distribute_gradient"
        )
    if not planned_now and not reduces_by_hooks(plan):
        return (
            "fully_shard replaces the parameters; pass example=(inputs, targets) and make "
            "the optimizer after this line"
        )
    return ""


def check_in_script(plan: Plan, chain: Chain, *, planned_now: bool) -> None:
    """Raise `ParplanError` with what `why_not_in_script` says."""
    if reason := why_not_in_script(plan, chain, planned_now=planned_now):
        raise ParplanError(f"plan: {reason}")


def check_batch(plan: Plan, batch: int) -> None:
    """Raise `ParplanError` unless the plan is of a global batch of so many rows."""
    planned = plan.data_parallel * plan.num_micro_batches * plan.batch_per_device
    if planned != batch:
        raise ParplanError(
            f"plan: data_parallel {plan.data_parallel} x num_micro_batches "
            f"{plan.num_micro_batches} x batch_per_device {plan.batch_per_device} = {planned}, "
            f"but the global batch is {batch}"
        )
