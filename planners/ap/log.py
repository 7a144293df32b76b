"""AP's log lines and its selected-configuration line, in AP's order and wording."""

from parplan.sim.plan import Plan

DUMP_NAME = "advanced_parallelization_selected_config.dump"
DETAIL_NAME = "autoconfig_log.dump"

GOT_DATABASES = "Got DBs from backend for auto config."
COMPILE_START = "Parallel Graph Compile start..."
COMPILE_FINISHED = "Parallel Graph Compile finished."
SELECT_START = "SelectBestGraphFromCandidates start..."
SELECT_FINISHED = "SelectBestGraphFromCandidates finished."
SELECTED = "Configuration for parallelism is selected."


def num_candidates(count: int) -> str:
    """The number of candidates."""
    return f"The number of candidates is {count}."


def compile_time(seconds: float) -> str:
    """Seconds for compiling all candidates."""
    return f"Elapsed Time to compile all candidates = {round(seconds * 1000)} [ms]"


def num_possible(count: int, *, is_all: bool = True) -> str:
    """How many of them fit in memory; at least so many where not all were tried."""
    return f"The number of possible candidates is {'' if is_all else 'at least '}{count}."


def cost_time(seconds: float) -> str:
    """Seconds for simulating the possible candidates."""
    return f"Elapsed Time to compute cost for survived candidates = {round(seconds * 1000)} [ms]"


def batches_vary(batches: list[int]) -> str:
    """AP's warning before it drops every pipeline."""
    return f"Various batch size detected : {', '.join(map(str, batches))}"


LEVELS = {"none": 0, "selective": 1, "full": 2}
NAMED_LEVELS = {"none": "0", "selective": "default(1)", "full": "full(2)"}


def selected_line(plan: Plan, version: str = "24.3") -> str:
    """The line that AP prints, and writes to its dump file, for its choice.

    24.2.0 prints recomputation as true or false and has no low-precision field; 24.3 prints the
    level as a number, 24.5 with its name. A plan with tensor parallelism, which AP never chooses,
    prints its degree where AP prints `No TP`.
    """
    parts = ["No PP"]
    if plan.num_stages > 1:
        parts = [
            f"num_stages : {plan.num_stages}",
            f"num_micro_batches : {plan.num_micro_batches}",
            f"batch_per_device : {plan.batch_per_device}",
        ]
    tensor = plan.tensor_parallel
    parts.append("No TP" if tensor == 1 else f"tensor_parallel : {tensor}")
    parts.append(f"recomputation : {_recomputation(plan, version)}")
    parts.append(f"distribute_param : {_bool(plan.distribute_param)}")
    if version != "24.2.0":
        parts.append(f"distribute_low_prec_param : {_bool(plan.distribute_low_prec_param)}")
    return ", ".join(parts)


def _recomputation(plan: Plan, version: str) -> str:
    if version == "24.2.0":
        return _bool(plan.recomputation != "none")
    if version == "24.3":
        return str(LEVELS[plan.recomputation])
    return NAMED_LEVELS[plan.recomputation]


def _bool(value: bool) -> str:
    return "true" if value else "false"
