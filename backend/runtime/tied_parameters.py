"""Parameters that several stages share, such as an embedding and the output projection.

Every process that has one of these stages keeps a copy; the copies start equal, and so do their
gradients once they are added up after each step (Shoeybi et al. 2019, arXiv:1909.08053).
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import torch.distributed as dist
from torch import nn
from torch._subclasses.fake_tensor import unset_fake_temporarily
from torch.distributed.tensor import DTensor

from parplan.backend.runtime.groups import Groups
from parplan.errors import ParplanError
from parplan.sim.plan import Plan


class ParameterUse(NamedTuple):
    """A place where a shared parameter is used."""

    stage: int
    module: nn.Module
    name: str

    @property
    def parameter(self) -> nn.Parameter:
        """The parameter, or this process's part of it."""
        return self.module.get_parameter(self.name)


class Tie(NamedTuple):
    """One shared parameter: all places of the whole model."""

    places: tuple[ParameterUse, ...]

    def ranks(self, on_rank: Mapping[int, int] | Sequence[int]) -> list[int]:
        """The pipeline ranks that have a copy, given the rank of every stage."""
        return sorted({on_rank[place.stage] for place in self.places})

    def own(self, stages: Iterable[int]) -> list[ParameterUse]:
        """The places on these stages."""
        kept = set(stages)
        return [place for place in self.places if place.stage in kept]


def find_ties(stages: Sequence[nn.Module]) -> list[Tie]:
    """The parameters that are used by more than one module."""
    places: dict[int, list[ParameterUse]] = {}
    for index, stage in enumerate(stages):
        for module in stage.modules():
            for name, parameter in module.named_parameters(recurse=False):
                places.setdefault(id(parameter), []).append(ParameterUse(index, module, name))
    return [Tie(tuple(found)) for found in places.values() if len(found) > 1]


def check_ties(ties: Sequence[Tie], on_rank: Mapping[int, int] | Sequence[int], plan: Plan) -> None:
    """Raise `ParplanError` where two stages of one process share a parameter that is replicated.

    Each of them would reduce its gradient (torch 2.13).
    """
    for tie in ties:
        stages = sorted({place.stage for place in tie.places})
        if plan.replicas > 1 and len({on_rank[stage] for stage in stages}) < len(stages):
            raise ParplanError(
                f"stages {' and '.join(map(str, stages))} of one process share the parameter "
                f"{tie.places[0].name} (tied weights), which schedule {plan.schedule} with "
                f"data_parallel {plan.data_parallel} cannot execute"
            )


def tie_again(ties: Iterable[Tie], stages: Iterable[int]) -> None:
    """Give the places on these stages one parameter, where splitting has made several."""
    for tie in ties:
        own = tie.own(stages)
        for place in own[1:]:
            setattr(place.module, place.name, own[0].parameter)


class TiedGradients:
    """Adds up the gradients of copies on different pipeline ranks. All processes make it."""

    def __init__(
        self, ties: Sequence[Tie], on_rank: Mapping[int, int] | Sequence[int], groups: Groups
    ) -> None:
        self.copies: list[tuple[ParameterUse, dist.ProcessGroup]] = []
        used = {place.stage for tie in ties for place in tie.places}
        mine = [stage for stage in used if on_rank[stage] == groups.pipeline_rank]
        for tie in ties:
            ranks = tie.ranks(on_rank)
            if len(ranks) == 1 or groups.mesh is None:
                continue
            with unset_fake_temporarily():  # the mesh is real also for virtual ranks
                # Pipeline ranks come first in the mesh: (pipeline, everything else).
                lists = groups.mesh.mesh.flatten(1)[ranks].t().tolist()
                group, _ = dist.new_subgroups_by_enumeration(lists)  # type: ignore[no-untyped-call]
            if place := next(iter(tie.own(mine)), None):
                self.copies.append((place, group))

    def add_up(self) -> None:
        """To be called once the gradients of a step are computed and reduced."""
        for place, group in self.copies:
            parameter = place.parameter
            gradient = parameter.grad
            if gradient is None:
                continue
            if isinstance(gradient, DTensor) and isinstance(parameter, DTensor):
                # Each use lays it out in its own way; the parameter's is the same everywhere.
                gradient = gradient.redistribute(placements=parameter.placements)
                parameter.grad = gradient
            local = gradient.to_local() if isinstance(gradient, DTensor) else gradient
            dist.all_reduce(local, group=group)

    def holders(self) -> dict[int, int]:
        """Return the number of pipeline ranks that hold a copy of a parameter, by its id."""
        return {id(place.parameter): group.size() for place, group in self.copies}


def shared_in(layers: Sequence[nn.Module]) -> set[int]:
    """The ids of the parameters that several of these layers use."""
    seen: set[int] = set()
    shared: set[int] = set()
    for layer in layers:
        own = {id(parameter) for parameter in layer.parameters()}
        shared |= own & seen
        seen |= own
    return shared


def is_free(layer: nn.Module, shared: set[int]) -> bool:
    """Whether a layer has parameters, none of which is shared."""
    own: set[int] = {id(p) for p in layer.parameters()}
    return bool(own) and not own & shared
