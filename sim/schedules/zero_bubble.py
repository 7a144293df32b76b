"""Zero bubble for given times within a memory limit (ZB-1p, ZB-2p, ...).

Qi et al. 2023 (arXiv:2401.10241), section 3.1: the heuristic, here as a greedy simulation in time.
"""

import heapq
import itertools
import math
from dataclasses import dataclass

from parplan.errors import ParplanError
from parplan.sim.programs.instructions import Action, CommunicationOp, Schedule, parts
from parplan.sim.programs.order import needs, progress, result
from parplan.sim.schedules.zb_handcrafted import zb_h1, zb_h2

ROUNDING = 1e-9
"""What sums of floats may be over a limit, or past an instant (relative), and still keep to it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PassTimes:
    """Times of one pass of one stage and of one message between stages, in any one unit."""

    forward: float = 1.0
    input_gradient: float = 1.0
    weight_gradient: float = 1.0
    message: float = 0.0

    def __post_init__(self) -> None:
        passes = (self.forward, self.input_gradient, self.weight_gradient)
        if not all(0 < t < math.inf for t in passes) or not 0 <= self.message < math.inf:
            raise ParplanError(f"times: passes have to take time, messages not less than 0: {self}")


def zero_bubble(
    num_ranks: int,
    num_micro_batches: int,
    *,
    times: PassTimes | None = None,
    memory_limit: float | None = None,
    weight_share: float = 1.0,
) -> Schedule:
    """Schedule with as many forwards ahead as memory allows; weight gradients fill waits.

    `memory_limit`: micro-batches whose activations a rank may hold (default: twice the ranks);
    `weight_share`: the part of them that the weight gradient still needs. The best of the
    heuristic's four variants and of ZB-H1 and ZB-H2, where they fit, by the longest time that a
    rank is occupied. Raises `ParplanError` for a limit below one micro-batch.
    """
    times = times or PassTimes()
    limit = 2.0 * num_ranks if memory_limit is None else memory_limit
    if not limit >= 1 or not 0 <= weight_share <= 1:
        raise ParplanError(
            f"memory_limit {limit:g}, weight_share {weight_share:g}; "
            "need at least 1, and a share from 0 to 1"
        )
    known = [make(num_ranks, num_micro_batches) for make in (zb_h1, zb_h2)]
    candidates = [
        (occupied_time(schedule, times), schedule)
        for schedule in known
        if peak_micro_batches(schedule, weight_share) <= limit + ROUNDING
    ]
    for variant in itertools.product((False, True), repeat=2):
        simulation = _Simulation(num_ranks, num_micro_batches, times, limit, weight_share, *variant)
        candidates.append((simulation.occupied_time(), tuple(map(tuple, simulation.actions))))
    return min(candidates, key=lambda candidate: candidate[0])[1]


def peak_micro_batches(schedule: Schedule, weight_share: float = 1.0) -> float:
    """The most micro-batches whose activations a rank holds; `weight_share` as above."""
    change = {"F": 1.0, "B": -1.0, "I": weight_share - 1.0, "W": -weight_share}
    return max(max(itertools.accumulate(change[a.op] for a in rank)) for rank in schedule)


def occupied_time(schedule: Schedule, times: PassTimes) -> float:
    """The longest time between a rank's first start and its last end (the paper's cost).

    `schedule` has one stage per rank, is complete and does not deadlock.
    """
    duration = {"F": times.forward, "I": times.input_gradient, "W": times.weight_gradient}
    duration["B"] = times.input_gradient + times.weight_gradient
    ended: dict[Action | CommunicationOp, float] = {}
    now = [0.0] * len(schedule)
    began: dict[int, float] = {}
    for rank, instruction in progress(schedule, len(schedule)).order:
        (action,) = parts(instruction)
        arrivals = [
            ended[need] + (times.message if need.stage != rank else 0.0)
            for need in needs(action, len(schedule))
        ]
        start = max([now[rank], *arrivals])
        began.setdefault(rank, start)
        now[rank] = start + duration[action.op]
        ended[result(action)] = now[rank]
    return max(end - began[rank] for rank, end in enumerate(now))


class _Simulation:
    """One simulation of the heuristic. Times and counts are lists by rank."""

    def __init__(
        self,
        num_ranks: int,
        num_micro_batches: int,
        times: PassTimes,
        limit: float,
        weight_share: float,
        delay_first_backward: bool,
        run_ahead: bool,
    ) -> None:
        self.p, self.limit = num_ranks, limit
        self.duration = {
            "F": times.forward,
            "I": times.input_gradient,
            "W": times.weight_gradient,
        }
        self.message = times.message
        self.held_by = {"F": 1.0, "I": weight_share - 1.0, "W": -weight_share}
        self.delay_first_backward, self.run_ahead = delay_first_backward, run_ahead
        self.actions: list[list[Action]] = [[] for _ in range(num_ranks)]
        self.done = [{"F": 0, "I": 0, "W": 0} for _ in range(num_ranks)]
        self.arrived: list[dict[str, list[float]]] = [{"F": [], "I": []} for _ in range(num_ranks)]
        self.arrived[0]["F"] = [0.0] * num_micro_batches
        self.held = [0.0] * num_ranks
        self.idle = [0.0] * num_ranks
        self.most_idle = 0.0
        self.began = [-1.0] * num_ranks
        self.free = [0.0] * num_ranks
        self.last = ["F"] * num_ranks
        self.queue: list[tuple[float, int]] = [(0.0, rank) for rank in range(num_ranks)]
        while self.queue:
            now, rank = heapq.heappop(self.queue)
            self._turn(rank, now)

    def occupied_time(self) -> float:
        """Occupied time, as the function of that name computes it, of a simulated program."""
        return max(end - began for end, began in zip(self.free, self.began, strict=True))

    def _turn(self, rank: int, now: float) -> None:
        if now < self.free[rank]:
            return  # woken while busy; it has a turn when it is done
        op, wake = self._choose(rank, now)
        if op:
            self._start(rank, op, now)
        elif wake < math.inf:
            heapq.heappush(self.queue, (wake, rank))

    def _choose(self, rank: int, now: float) -> tuple[str, float]:
        """Choose the action that the rank starts now, or the time at which it looks again."""
        forward, backward = self._arrival(rank, "F"), self._arrival(rank, "I")
        room = self.held[rank] + 1 <= self.limit + ROUNDING
        late = self.done[rank]["I"] - self.done[rank]["W"]
        if backward <= now and not (self.last[rank] == "I" and forward <= now and room):
            return "I", now
        if forward <= now:
            if room and not self._waits(rank, now, backward):
                return "F", now
            if not room and late:
                return "W", now
        gap = min(backward, forward if room and forward > now else math.inf) - now
        grows = self.idle[rank] + gap > self.most_idle
        if late and (gap >= self.duration["W"] or grows):
            return "W", now
        return "", now + gap

    def _waits(self, rank: int, now: float, backward: float) -> bool:
        """Whether a forward now would come before a backward that it delays."""
        end = now + self.duration["F"]
        if self.done[rank]["I"] == 0:
            hop = self.duration["I"] + self.message
            ahead = self.p * self.duration["F"] + (self.p - 1) * self.message
            first = ahead + (self.p - 1 - rank) * hop
            return end > first * (1 + ROUNDING) and not self.delay_first_backward
        return self.last[rank] == "F" and not self.run_ahead and backward < end

    def _arrival(self, rank: int, op: str) -> float:
        arrived, count = self.arrived[rank][op], self.done[rank][op]
        return arrived[count] if count < len(arrived) else math.inf

    def _start(self, rank: int, op: str, now: float) -> None:
        if self.began[rank] < 0:
            self.began[rank] = now
        else:
            self.idle[rank] += now - self.free[rank]
            self.most_idle = max(self.most_idle, self.idle[rank])
        self.actions[rank].append(Action(rank, op, self.done[rank][op]))
        self.done[rank][op] += 1
        self.held[rank] += self.held_by[op]
        self.last[rank] = op if op != "W" else self.last[rank]
        end = self.free[rank] = now + self.duration[op]
        heapq.heappush(self.queue, (end, rank))
        if op == "F" and rank == self.p - 1:
            self.arrived[rank]["I"].append(end)
        elif op != "W":
            to = rank + 1 if op == "F" else rank - 1
            if to >= 0:
                self.arrived[to][op].append(end + self.message)
                heapq.heappush(self.queue, (max(end + self.message, self.free[to]), to))
