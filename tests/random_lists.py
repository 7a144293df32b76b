"""Random deadlock-free instruction lists and costs."""

import random

from parplan.sim.costs import StageCosts
from parplan.sim.instructions import Action, Schedule
from parplan.sim.ticks import PS_PER_S


def random_lists(seed: int) -> tuple[Schedule, int]:
    """Lists in the order of a random walk over what is ready, and the number of stages."""
    draw = random.Random(seed)
    ranks, stages, size = draw.randint(1, 4), draw.randint(1, 6), draw.randint(1, 5)
    rank_of = [draw.randrange(ranks) for _ in range(stages)]
    rank_of[: min(ranks, stages)] = range(min(ranks, stages))
    lists: list[list[Action]] = [[] for _ in range(max(rank_of) + 1)]
    ready = [Action(0, "F", m) for m in range(size)]
    ended: set[Action] = set()
    while ready:
        action = ready.pop(draw.randrange(len(ready)))
        lists[rank_of[action.stage]].append(action)
        ended.add(action)
        stage, op, m = action
        if op == "F" and stage < stages - 1:
            ready.append(Action(stage + 1, "F", m))
        elif op == "F":
            ready.append(Action(stage, draw.choice("BI"), m))
        elif op in "BI":
            ready += [Action(stage - 1, draw.choice("BI"), m)] * (stage > 0)
            ready += [Action(stage, "W", m)] * (op == "I")
    return tuple(map(tuple, lists)), stages


def random_costs(seed: int, stages: int) -> list[StageCosts]:
    """Costs with ties and zeros; links from absent to a hundred times heavier than computation."""
    draw = random.Random(seed)
    heavy = draw.choice([0, 1, 10, 100])
    longest = draw.choice([2, 1000, 10**9])

    def seconds(scale: float = 1.0) -> float:
        return draw.randint(0, longest) * scale / PS_PER_S

    return [
        StageCosts(
            forward_s=seconds(),
            input_gradient_s=seconds(),
            weight_gradient_s=seconds(),
            first_gradient_extra_s=seconds() - seconds(),
            send_s=seconds(heavy),
            latency_s=seconds(heavy),
            reduce_s=draw.choice([0.0, seconds(), seconds(10)]),
            reduce_buckets=draw.randint(1, 7),
            reduce_each_micro_batch=draw.random() < 0.3,
            optimizer_s=seconds(),
            gather_s=seconds(),
        )
        for _ in range(stages)
    ]
