"""Seconds of a step by cause, mean over the pipeline ranks.

Every rank's step is busy seconds of its compute stream and idle ones. Idle seconds go by what was
waited for (`parplan.sim.analysis.bubble`), busy ones by what the layers of the stage consist of
(`parplan.sim.layers.times`). What the simulators stretch or overlap is stretched evenly.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from parplan.hardware.network.cluster import Cluster
from parplan.sim.analysis.bubble import Idle, idle_by_cause
from parplan.sim.cost_model.communication import Communication, slowed_share
from parplan.sim.cost_model.parameter_exchanges import backward_gathers, gather_all_s
from parplan.sim.cost_model.stage_costs import host_message_s, ops_of, timing_of
from parplan.sim.cost_model.stage_formula import gathered_for_s
from parplan.sim.cost_model.stages import StageLayers, StageParameters, stage_parameters, stages_of
from parplan.sim.costs import StageCosts
from parplan.sim.layers.blocks import Ops, recomputed_ops
from parplan.sim.layers.ops import Op
from parplan.sim.layers.times import (
    MachineTimes,
    experts_s,
    exposed_experts,
    layer_costs,
    split_by_cause,
)
from parplan.sim.prediction.predict import CompiledPlan
from parplan.sim.programs.instructions import parse_action
from parplan.sim.run import Event, Run
from parplan.sim.workload import Workload

EXCHANGES = ("tensor", "context", "expert")

PARTS = {
    "compute": "kernels of the model, with what slows them within a step",
    "recomputation": "kernels of the forward that run again before the backward",
    "tensor exchange": "tensor-parallel exchanges that no kernel hides",
    "context exchange": "context-parallel exchanges that no kernel hides",
    "expert exchange": "expert-parallel exchanges that no kernel hides",
    "launch": "the device waits for the host to launch kernels and exchanges",
    "software": "constant terms of the training software: per message, per step, per expert layer",
    "messages": "waiting for activations or gradients that are computed but have not arrived",
    "warm-up": "bubble: before the rank's first backward",
    "dependency": "bubble: waiting for a neighbour in between",
    "drain": "bubble: waiting for a neighbour after the rank's last forward",
    "end": "bubble: done, while other ranks are not",
    "gradient reduction": "reductions of gradients that no computation hides",
    "parameter gather": "gathers of sharded parameters that no computation hides",
    "optimizer": "the optimizer step",
}
"""What a step's time goes to, and what each means."""

BUBBLE = ("warm-up", "dependency", "drain", "end")

Seconds = dict[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class TimeSplit:
    """Seconds of one step by cause; they sum to it."""

    step_s: float
    seconds: Mapping[str, float]
    """By the names of `PARTS`, mean over the pipeline ranks; none is negative."""

    def share(self, *parts: str) -> float:
        """Sum of these parts as a share of the step."""
        return sum(self.seconds[part] for part in parts) / (self.step_s or 1.0)


def time_split(workload: Workload, cluster: Cluster, compiled: CompiledPlan, run: Run) -> TimeSplit:
    """Split the time of `run`, the result of simulating `compiled`, by cause."""
    busy = action_causes(workload, cluster, compiled)
    idle = idle_by_cause(compiled.schedule, run)
    seconds = dict.fromkeys(PARTS, 0.0)
    events: list[list[Event]] = [[] for _ in idle]
    for event in run.events:
        events[event.rank].append(event)
    for own, waits in zip(events, idle, strict=True):
        for part, value in _rank(own, waits, busy, workload.framework.step_s):
            seconds[part] += value / len(idle)
    # Rounding: events are in whole picoseconds, and floats are added up.
    scale = run.step_s / (sum(seconds.values()) or 1.0)
    return TimeSplit(step_s=run.step_s, seconds={k: scale * v for k, v in seconds.items()})


def _rank(
    events: Iterable[Event], idle: Idle, busy: Mapping[tuple[int, str], Seconds], fixed_s: float
) -> Iterable[tuple[str, float]]:
    """The parts of one rank's step, some of them several times."""
    together: dict[tuple[float, float], Seconds] = {}
    gathers_s = 0.0
    for event in events:
        length_s = event.end_s - event.start_s
        if event.name.startswith("gather"):
            gathers_s += length_s
        elif event.name.startswith("optimizer"):
            yield "software", min(fixed_s, length_s)
            yield "optimizer", length_s - min(fixed_s, length_s)
        elif event.stream == "compute":
            # Pairs that overlap have equal times.
            action = parse_action(event.name)
            causes = together.setdefault((event.start_s, event.end_s), {})
            for part, seconds in busy[action.stage, action.op].items():
                causes[part] = causes.get(part, 0.0) + seconds
    for (start_s, end_s), causes in together.items():
        whole_s = sum(causes.values())
        for part, seconds in (causes if whole_s else {"compute": 1.0}).items():
            yield part, (end_s - start_s) * seconds / (whole_s or 1.0)
    gathers_s = min(gathers_s, idle.data_parallel_s)
    yield "parameter gather", gathers_s
    yield "gradient reduction", idle.data_parallel_s - gathers_s
    yield "messages", idle.communication_s
    yield "warm-up", idle.warm_up_s
    yield "dependency", idle.dependency_s
    yield "drain", idle.drain_s
    yield "end", idle.end_s


def action_causes(
    workload: Workload, cluster: Cluster, compiled: CompiledPlan
) -> dict[tuple[int, str], Seconds]:
    """Causes of the seconds of each stage and kind of action (F, I, W, B), by names of `PARTS`."""
    timing = timing_of(workload, cluster, compiled.plan)
    links = Communication(cluster, compiled.plan)
    known: dict[StageLayers, dict[str, Seconds]] = {}
    found = {}
    stages = stages_of(workload, compiled.plan)
    parameters = stage_parameters(workload, compiled.plan)
    for number, (stage, own) in enumerate(zip(stages, parameters, strict=True)):
        if stage not in known:
            costs = compiled.costs[number]
            known[stage] = _stage(workload, compiled, stage, own, costs, timing, links)
        found.update({(number, op): causes for op, causes in known[stage].items()})
    return found


def _stage(
    workload: Workload,
    compiled: CompiledPlan,
    stage: StageLayers,
    parameters: StageParameters,
    costs: StageCosts,
    timing: MachineTimes,
    links: Communication,
) -> dict[str, Seconds]:
    plan, repeats = compiled.plan, workload.software.selective_repeats
    forward, backward, weights, layers = Seconds(), Seconds(), Seconds(), 0
    for ops, again, count in ops_of(workload, plan, stage):
        recomputed = recomputed_ops(plan, ops) if again else frozenset[str]()
        once = forward_causes(ops, timing)
        layers += count
        _add(forward, once, count)
        if again and plan.recomputation == "selective" and repeats is not None:
            recomputed = frozenset()
            _add(backward, {"recomputation": repeats * sum(once.values())}, count)
        _add(backward, input_gradient_causes(ops, recomputed, timing), count)
        _add(weights, {"compute": layer_costs(ops, frozenset(), timing).weight_gradient_s}, count)
    layers = 1 if workload.software.exposed_exchanges else layers
    if plan.distribute_low_prec_param:
        gathered = gather_all_s(workload, plan, links, parameters)
        times = backward_gathers(workload, plan)
        how = workload.software.sharded_in_lists, slowed_share(links.cluster, workload.software)
        _add(forward, {"parameter gather": _exposed_s(forward, gathered, layers, *how)})
        gather_s = _exposed_s(backward, times * gathered, layers, *how)
        both_s = _exposed_s(backward, times * gathered + costs.reduce_s, layers, *how)
        _add(backward, {"parameter gather": gather_s, "gradient reduction": both_s - gather_s})
    for causes in (forward, backward):
        _add(causes, {"software": host_message_s(workload, plan.num_stages)})
    both = dict(backward)
    _add(both, weights)
    return {"F": forward, "I": backward, "W": weights, "B": both}


def _exposed_s(causes: Seconds, gather_s: float, layers: int, waits: bool, slowed: float) -> float:
    """Time that gathers (and reductions) over the links of a stage add to its layers."""
    own_s = sum(causes.values())
    return max(0.0, gathered_for_s(own_s, gather_s, layers, waits, slowed) - own_s)


def _add(into: Seconds, causes: Mapping[str, float], times: float = 1) -> None:
    for part, seconds in causes.items():
        into[part] = into.get(part, 0.0) + times * seconds


def forward_causes(ops: Ops, timing: MachineTimes) -> Seconds:
    """Causes of the forward time of one layer."""
    only = [replace(op, input_gradient=(), weight_gradient=(), backward_exchanges=()) for op in ops]
    whole_s = layer_costs(ops, frozenset(), timing).forward_s
    causes = split_by_cause(only, frozenset(), timing, exposed_experts(ops, timing))
    return _with_host(_named(causes), ops, whole_s, timing)


def input_gradient_causes(ops: Ops, recomputed: frozenset[str], timing: MachineTimes) -> Seconds:
    """Causes of the input-gradient time of one layer, with the recomputation before it."""
    kernels = [_kernels_alone(op) for op in ops]
    exchanges = [replace(op, forward=(), forward_exchanges=()) for op in ops]
    alone = exposed_experts(ops, timing)
    causes = _named(split_by_cause(exchanges, frozenset(), timing, alone))
    causes["compute"] = split_by_cause(kernels, frozenset(), timing)["compute"]
    costs = layer_costs(ops, recomputed, timing)
    found = _with_host(causes, ops, costs.input_gradient_s, timing)
    again = [op for op in ops if op.name in recomputed]
    forward = forward_causes(tuple(again), timing)
    forward["recomputation"] = forward.pop("compute")
    _add(found, forward)
    return found


def _kernels_alone(op: Op) -> Op:
    return replace(op, forward=(), weight_gradient=(), forward_exchanges=(), backward_exchanges=())


def _named(causes: Mapping[str, float]) -> Seconds:
    return {f"{k} exchange" if k in EXCHANGES else k: seconds for k, seconds in causes.items()}


def _with_host(causes: Seconds, ops: Ops, whole_s: float, timing: MachineTimes) -> Seconds:
    """With what lies between the device's seconds and those of the layer as a whole."""
    waits_s = experts_s(ops, timing)
    left_s = max(0.0, whole_s - sum(causes.values()))
    framework_s = min(waits_s, left_s)
    return {**causes, "software": framework_s, "launch": left_s - framework_s}
