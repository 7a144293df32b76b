"""Catalogue of pipeline schedules with their limits and properties."""

import sys
from collections.abc import Callable
from dataclasses import dataclass

from parplan.sim.programs.instructions import Program
from parplan.sim.schedules.dualpipe import dualpipe, dualpipe_v
from parplan.sim.schedules.gpipe import gpipe
from parplan.sim.schedules.hanayo import hanayo
from parplan.sim.schedules.interleaved import interleaved_1f1b
from parplan.sim.schedules.interleaved_zb import interleaved_zb
from parplan.sim.schedules.limits import (
    as_many,
    odd_or_few_for_dualpipe,
    one_per_rank,
    repeated,
    too_few_for_dualpipe_v,
    two_per_rank,
    two_rounds,
    unequal_rounds,
)
from parplan.sim.schedules.looped_bfs import looped_bfs
from parplan.sim.schedules.one_f_one_b import one_f_one_b
from parplan.sim.schedules.placement import Placement
from parplan.sim.schedules.zb_handcrafted import zb_h1, zb_h2
from parplan.sim.schedules.zb_v import zb_v
from parplan.sim.schedules.zero_bubble import zero_bubble

ONE, TWO = range(1, 2), range(2, 3)
ANY, EVEN = range(1, sys.maxsize), range(2, sys.maxsize, 2)


def _one(num_ranks: int, rank: int) -> int:
    return 1


def _as_zb_h1(num_ranks: int, rank: int) -> int:
    """The number of ZB-H1.

    Each of the other schedules of which `zero_bubble` takes the best has no fewer: a rank that
    nothing has come back to goes forward until that is due, which is after 2 (ranks - rank) - 1 of
    equal times.
    """
    return num_ranks - rank


def _no_limit(num_ranks: int, num_micro_batches: int, virtual_stages: int) -> str:
    return ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleKind:
    """One schedule of the catalogue."""

    function: Callable[..., Program]
    """(pipeline ranks, micro-batches), then virtual stages unless only one number is allowed."""
    placement: Placement = "loop"
    """Which rank holds which stage."""
    virtual_stages: range = ONE
    """The numbers of stages per rank that are allowed."""
    splits_backward: bool = False
    """Whether input and weight gradients are (some of them) computed apart."""
    overlaps: bool = False
    """Whether it has pairs of a forward and a backward that run together."""
    whole_rounds: bool = False
    """Whether the micro-batches must make equal rounds, as every multiple of the ranks does."""
    by_times: bool = False
    """Whether the order depends on times and memory (`zero_bubble`)."""
    limit: Callable[[int, int, int], str] = _no_limit
    """(ranks, micro-batches, virtual stages) -> why they do not fit, empty if they do."""
    steady: Callable[[int, int, int], int] = as_many
    """(ranks, micro-batches, virtual stages) -> fewer micro-batches with equal fullest moments
    (`parplan.sim.schedules.limits`)."""
    ahead: Callable[[int, int], int] = _one
    """(ranks, rank) -> micro-batches that go forward on a rank before the first goes backward
    there, at least, where there are so many."""
    keeps_all: bool = False
    """Whether all forwards come before the first backward, so that the fullest moments hold the
    activations of all micro-batches in place of one."""

    @property
    def one_copy(self) -> bool:
        """Whether every stage is on one rank, as torch's runtime expects it."""
        return self.placement != "bidirectional"


CATALOGUE: dict[str, ScheduleKind] = {
    "gpipe": ScheduleKind(function=gpipe, keeps_all=True),
    "1f1b": ScheduleKind(function=one_f_one_b, steady=one_per_rank),
    "interleaved-1f1b": ScheduleKind(
        function=interleaved_1f1b,
        virtual_stages=ANY,
        whole_rounds=True,
        limit=unequal_rounds,
        steady=two_rounds,
    ),
    "looped-bfs": ScheduleKind(function=looped_bfs, virtual_stages=ANY, keeps_all=True),
    "hanayo": ScheduleKind(function=hanayo, placement="v", virtual_stages=EVEN, steady=repeated),
    "zb-h1": ScheduleKind(function=zb_h1, splits_backward=True, steady=one_per_rank),
    "zb-h2": ScheduleKind(function=zb_h2, splits_backward=True, steady=two_per_rank),
    "zb-auto": ScheduleKind(
        function=zero_bubble, splits_backward=True, by_times=True, ahead=_as_zb_h1
    ),
    "interleaved-zb": ScheduleKind(
        function=interleaved_zb,
        virtual_stages=ANY,
        splits_backward=True,
        whole_rounds=True,
        limit=unequal_rounds,
        steady=two_rounds,
    ),
    "zb-v": ScheduleKind(
        function=zb_v,
        placement="v",
        virtual_stages=TWO,
        splits_backward=True,
        steady=two_per_rank,
    ),
    "dualpipe-v": ScheduleKind(
        function=dualpipe_v,
        placement="v",
        virtual_stages=TWO,
        splits_backward=True,
        overlaps=True,
        limit=too_few_for_dualpipe_v,
        steady=two_per_rank,
    ),
    "dualpipe": ScheduleKind(
        function=dualpipe,
        placement="bidirectional",
        splits_backward=True,
        overlaps=True,
        limit=odd_or_few_for_dualpipe,
        steady=two_per_rank,
    ),
}
"""Every schedule by name."""
