"""Plans in the words of an engineer: degrees, sharding, micro-batches, recomputation."""

from parplan.planners.spaces.recomputed import name_of
from parplan.sim.plan import Plan

SEPARATOR = " · "

SELECTIVE_WORDS = {
    "between products": "between products",
    "every second product": "of every second product",
    "latent projections": "of latent projections",
    "latent projections, mlp": "of latent projections and MLP",
    "latent projections, mlp, experts": "of latent projections, MLP and experts",
    "norms": "of norms",
    "norms, expert activations": "of norms and expert activations",
    "mlp": "of MLP",
    "experts": "of experts",
}
"""What is recomputed, by the name of a set of operations."""

SHORT_SCHEDULES = {"1f1b": "1F1B", "gpipe": "GPipe"}


def plan_words(plan: Plan) -> str:
    """A plan in one line.

    For example `DP 32 · TP 1 · PP 1 · ZeRO-2 · 16 micro-batches of 1 · no recomputation`.
    """
    return SEPARATOR.join(plan_parts(plan).values())


def words_that_differ(plan: Plan, other: Plan) -> str:
    """What the line of `other` says that the line of `plan` does not; the line where nothing is."""
    before = plan_parts(plan)
    found = [text for name, text in plan_parts(other).items() if before.get(name) != text]
    return SEPARATOR.join(found) or plan_words(other)


def plan_parts(plan: Plan) -> dict[str, str]:
    """The parts of the line by what they are of; what has its usual value is left out."""
    parts = _degrees(plan) | _sharding(plan)
    count, size = plan.num_micro_batches, plan.batch_per_device
    parts["micro-batches"] = f"{count} micro-batch{'es' * (count > 1)} of {size}"
    parts["recomputation"] = _recomputation(plan)
    if plan.stage_layers is not None:
        parts["layers"] = f"layers {_run_lengths(plan.stage_layers)}"
    for name, said in (
        ("offload_optimizer", "optimizer in host memory"),
        ("offload_activations", "activations in host memory"),
        ("overlap_parameter_gather", "parameter gathers overlapped"),
        ("overlap_tensor_parallel", "tensor exchanges overlapped"),
    ):
        if getattr(plan, name):
            parts[name] = said
    if not plan.overlap_gradient_reduction:
        parts["overlap_gradient_reduction"] = "gradients reduced after the backward"
    if plan.gradient_dtype != "as computed":
        parts["gradient_dtype"] = f"{plan.gradient_dtype} gradients"
    return parts


def _degrees(plan: Plan) -> dict[str, str]:
    sequence = " with SP" if plan.sequence_parallel and plan.tensor_parallel > 1 else ""
    parts = {
        "data": f"DP {plan.data_parallel}",
        "tensor": f"TP {plan.tensor_parallel}{sequence}",
    }
    if plan.context_parallel > 1:
        parts["context"] = f"CP {plan.context_parallel}"
    if plan.expert_parallel > 1:
        parts["expert"] = f"EP {plan.expert_parallel}"
    if plan.expert_tensor_parallel not in (None, plan.tensor_parallel):
        parts["expert tensor"] = f"ETP {plan.expert_tensor_parallel}"
    parts["pipeline"] = f"PP {plan.num_stages}"
    if plan.num_stages > 1:
        chunks = f" x {plan.virtual_stages}" if plan.virtual_stages > 1 else ""
        parts["schedule"] = SHORT_SCHEDULES.get(plan.schedule, plan.schedule) + chunks
    return parts


def _sharding(plan: Plan) -> dict[str, str]:
    if plan.replicas == 1:
        return {}
    if not plan.zero_stage:
        return {"sharding": "no ZeRO"}
    over = "" if plan.sharded_over == plan.replicas else f" over {plan.sharded_over}"
    return {"sharding": f"ZeRO-{plan.zero_stage}{over}"}


def _recomputation(plan: Plan) -> str:
    if plan.recomputation == "none":
        return "no recomputation"
    layers = ""
    if plan.recomputed_of_stages is not None:
        layers = f" in {_run_lengths(plan.recomputed_of_stages)} layers of the stages"
    elif plan.recomputed_layers is not None:
        of = " of each stage" if plan.num_stages > 1 else ""
        count = plan.recomputed_layers
        layers = f" in {count} layer{'s' * (count != 1)}{of}"
    return f"{plan.recomputation} recomputation{_selected(plan)}{layers}"


def _selected(plan: Plan) -> str:
    """What selective recomputation computes again, by the name that it has."""
    if plan.recomputation != "selective":
        return ""
    ops = " + ".join(plan.recomputed_ops)
    return " " + SELECTIVE_WORDS.get(name_of(plan), f"of {ops}")


def _run_lengths(counts: tuple[int, ...]) -> str:
    """`9 8x6 7` for 9 8 8 8 8 8 8 7: equal neighbours are said once."""
    runs: list[list[int]] = []
    for count in counts:
        if runs and runs[-1][0] == count:
            runs[-1][1] += 1
        else:
            runs.append([count, 1])
    return " ".join(f"{count}x{times}" if times > 1 else str(count) for count, times in runs)
