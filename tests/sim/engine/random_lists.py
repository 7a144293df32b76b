"""Random deadlock-free instruction lists and costs."""

import random

from parplan.sim.costs import StageCosts
from parplan.sim.programs.instructions import Action, Instruction, Overlap, Program, Schedule
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


def random_program(seed: int) -> tuple[Program, int]:
    """As `random_lists`, with overlapped pairs, and stages that have copies on several ranks."""
    draw = random.Random(seed)
    ranks, stages, size = draw.randint(1, 4), draw.randint(1, 6), draw.randint(1, 5)
    copies = [draw.sample(range(ranks), draw.choice([1, 1, min(2, ranks)])) for _ in range(stages)]
    rank_of = {(s, m): draw.choice(copies[s]) for s in range(stages) for m in range(size)}
    lists: list[list[Instruction]] = [[] for _ in range(max(rank_of.values()) + 1)]
    ready = [Action(0, "F", m) for m in range(size)]

    def next_of(stage: int, op: str, m: int) -> list[Action]:
        if op == "F" and stage < stages - 1:
            return [Action(stage + 1, "F", m)]
        if op == "F":
            return [Action(stage, draw.choice("BI"), m)]
        more = [Action(stage - 1, draw.choice("BI"), m)] * (op in "BI" and stage > 0)
        return more + [Action(stage, "W", m)] * (op == "I")

    while ready:
        action = ready.pop(draw.randrange(len(ready)))
        own = lists[rank_of[action[::2]]]
        others = [a for a in ready if a.op in "BI" and rank_of[a[::2]] == rank_of[action[::2]]]
        if action.op == "F" and others and draw.random() < 0.7:
            other = draw.choice(others)
            ready.remove(other)
            own.append(Overlap(action, other))
            ready += next_of(*other)
        else:
            own.append(action)
        ready += next_of(*action)
    return tuple(map(tuple, lists)), stages


def random_costs(seed: int, stages: int, *, whole_step: bool = False) -> list[StageCosts]:
    """Costs with ties and zeros; links from absent to a hundred times heavier than computation.

    `whole_step`: also a norm, which may be validated later, gains of overlapped pairs, and no
    reduction but at the end.
    """
    draw = random.Random(seed)
    heavy = draw.choice([0, 1, 10, 100])
    longest = draw.choice([2, 1000, 10**9])
    end = random.Random(seed + 1)
    share, norm = end.choice([0.0, 0.3, 1.0]), end.choice([0, longest])
    validates_later = end.random() < 0.5

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
            reduce_each_micro_batch=draw.random() < 0.3 and not whole_step,
            optimizer_s=seconds(),
            gather_s=seconds(),
            norm_sync_s=end.randint(0, norm) / PS_PER_S if whole_step else 0.0,
            overlap_share=share if whole_step else 0.0,
            post_validation=validates_later and whole_step,
        )
        for _ in range(stages)
    ]
