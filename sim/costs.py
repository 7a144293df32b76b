"""Costs of actions and messages: the input of the simulators.

`LayerCosts` hold one layer and one micro-batch, from the model of the hardware
(`parplan.sim.cost_model.stage_costs`) or from measurements
(`parplan.backend.calibration.calibrate`). `StageCosts` hold one pipeline stage, with its
communication.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from parplan.errors import ParplanError
from parplan.sim.models.model import LayerKind


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerCosts:
    """Seconds that one rank spends in one layer on one micro-batch."""

    forward_s: float
    input_gradient_s: float
    weight_gradient_s: float
    recompute_s: float = 0.0
    """The part of the forward that runs again before the gradients."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelCosts:
    """The three kinds of layers of a language model."""

    embedding: LayerCosts
    blocks: Mapping[tuple[LayerKind, bool], LayerCosts]
    """By kind, and by whether the block is recomputed."""
    head: LayerCosts
    """Final normalisation, output projection and loss."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StageCosts:
    """Seconds that one rank of one pipeline stage spends, per micro-batch unless said otherwise.

    Raises `ParplanError` where a message or what is done once is negative or no number. What an
    action takes may be below zero, as a line through noisy measurements is; it then counts as zero.
    """

    forward_s: float
    input_gradient_s: float
    """Including what is recomputed."""
    weight_gradient_s: float
    first_gradient_extra_s: float = 0.0
    """Added to the first weight gradient of a step, which creates what later ones accumulate in."""
    send_s: float = 0.0
    """How long a message to the next or previous stage occupies its link."""
    latency_s: float = 0.0
    """How long after that the message arrives."""
    reduce_s: float = 0.0
    """One data-parallel reduction of the gradients, after the last backward of the step."""
    reduce_buckets: int = 1
    """Equal parts in which they are reduced, each as soon as its share of the backward is done."""
    reduce_each_micro_batch: bool = False
    """Whether every backward is followed by a reduction, as sharded gradients need it."""
    optimizer_s: float = 0.0
    """Once per step, when all the gradients of the rank are reduced."""
    gather_s: float = 0.0
    """Once per step, after the optimizer: the sharded parameters are gathered again."""
    norm_sync_s: float = 0.0
    """One all-reduce of the gradients' norm over all pipeline ranks before the optimizer, which
    then begins everywhere at once; the largest of the stages counts. 0: there is none."""
    post_validation: bool = False
    """Whether a rank begins and ends its steps at times of its own where the schedule splits the
    backward: no optimizer waits for the norm of all gradients (`parplan.sim.step.step_end`)."""
    overlap_share: float = 0.0
    """What a pair of a forward (of this stage) and a backward gains by running together, as a share
    of the shorter one: 0, as one after the other; 1, the shorter one costs nothing."""

    def __post_init__(self) -> None:
        once = self.reduce_s, self.optimizer_s, self.gather_s, self.norm_sync_s
        for seconds in (self.send_s, self.latency_s, *once):
            if not seconds >= 0.0:
                raise ParplanError(f"costs: {seconds} s; must not be negative")
        if not 0.0 <= self.overlap_share <= 1.0:
            raise ParplanError(f"overlap_share: must be from 0 to 1, got {self.overlap_share}")

    def action_s(self, op: str) -> float:
        """Seconds of one action F, B, I or W."""
        if op == "F":
            return self.forward_s
        if op == "I":
            return self.input_gradient_s
        if op == "W":
            return self.weight_gradient_s
        return self.input_gradient_s + self.weight_gradient_s
