"""Jobs and constraints that leave no plan: one line that names the nearest changes that help."""

from dataclasses import replace

import pytest

from parplan.errors import ParplanError
from parplan.hardware.machines.presets import cluster_preset
from parplan.planners.spaces.constraints import constraints_of
from parplan.planners.spaces.everything import everything, without_limits
from parplan.planners.spaces.make import make_space
from parplan.planners.spaces.space import Space
from parplan.sim.models.model import Model, model_preset
from parplan.sim.plan import check_plan
from parplan.sim.workload import Workload

ONE_LAYER = replace(model_preset("llama3-8b"), name="one layer", num_layers=1)
TEN_LAYERS = replace(ONE_LAYER, name="ten layers", num_layers=10)


def space_of(
    given: dict[str, object],
    model: str | Model = "llama3-8b",
    cluster: str = "8xh100",
    batch: int = 16,
) -> Space:
    found = model_preset(model) if isinstance(model, str) else model
    job = Workload(model=found, seq_len=2048, global_batch=batch)
    return make_space(job, cluster_preset(cluster), constraints_of(given, "space"))


@pytest.mark.parametrize(
    ("given", "job", "said"),
    [
        ({"tp": 16}, {}, "^tensor_parallel: 16; possible on 8xh100: 1, 2, 4, 8$"),
        ({"pp": 64}, {}, "^num_stages: 64; possible on 8xh100: 1, 2, 4, 8$"),
        ({"dp": 3}, {}, "^data_parallel: 3; possible on 8xh100: 1, 2, 4, 8$"),
        ({"cp": 3}, {}, "^context_parallel: 3; possible on 8xh100: 1$"),
        ({"mbs": 3}, {}, "^batch_per_device: 3; possible on 8xh100: 1, 2, 4, 8, 16$"),
        ({"recomputation": "experts"}, {}, "^recomputation: experts; possible on .*: none, sel"),
        ({"ep": 5}, {"model": "mixtral-8x7b"}, "^expert_parallel: 5; .*: 1, 2, 4, 8$"),
        ({"pp": 2}, {"model": ONE_LAYER}, "^num_stages: 2; possible on 8xh100: 1$"),
        (
            {"pp": 4, "vpp": 2},
            {"model": TEN_LAYERS},
            "num_stages: 4; virtual_stages: 2; possible with unequal_chunks = true, "
            "or with num_stages: 1, or with virtual_stages: 1$",
        ),
        ({"tp": 32}, {"cluster": "32xh100", "batch": 32}, "with tensor_parallel_across_nodes = t"),
        (
            {"pp": 2, "num_micro_batches": 5},
            {},
            "or with num_micro_batches: 1, 2, 4, 8, 16$",
        ),
        (
            {"pp": 8, "schedule": "dualpipe"},
            {"batch": 2},
            "possible with num_stages: 1, or with schedule: gpipe, 1f1b,",
        ),
        ({"pp": 3, "schedule": "zb-v"}, {}, "^num_stages: 3; possible on 8xh100: 1, 2, 4, 8$"),
        (
            {},
            {"model": ONE_LAYER, "cluster": "64xh100", "batch": 12},
            "do not divide over 64 accelerators in any plan of one layer; possible with a global "
            "batch of 8 or 16, or with 48 accelerators$",
        ),
    ],
)
def test_what_leaves_nothing_and_what_would_help(
    given: dict[str, object], job: dict[str, object], said: str
) -> None:
    with pytest.raises(ParplanError, match=said) as caught:
        space_of(given, **job)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_the_changes_that_are_named_help() -> None:
    assert len(space_of({"pp": 4, "vpp": 2, "unequal_chunks": True}, TEN_LAYERS))
    assert len(space_of({"pp": 4, "vpp": 1}, TEN_LAYERS))
    assert len(space_of({"pp": 1, "vpp": 2}, TEN_LAYERS))
    across = {"tp": 32, "tensor_parallel_across_nodes": True}
    assert len(space_of(across, cluster="32xh100", batch=32))
    assert len(space_of({}, ONE_LAYER, "64xh100", 8))
    assert len(space_of({}, ONE_LAYER, "64xh100", 16))
    assert len(space_of({}, ONE_LAYER, "48xh100", 12))


@pytest.mark.parametrize(
    ("model", "cluster", "batch"),
    [
        ("llama3-8b", "1xh100", 1),
        ("llama3-8b", "7xh100", 8),
        ("llama3-8b", "8xh100", 7),
        ("llama3-8b", "5xh100", 1),
        ("llama3-8b", "1024xh100", 1),
        ("mixtral-8x7b", "3xh100", 2),
        (ONE_LAYER, "1xh100", 1),
        (ONE_LAYER, "8xh100", 3),
        (ONE_LAYER, "7xh100", 7),
    ],
)
def test_few_layers_few_sequences_and_primes_have_plans(
    model: str | Model, cluster: str, batch: int
) -> None:
    found = model_preset(model) if isinstance(model, str) else model
    job = Workload(model=found, seq_len=2048, global_batch=batch)
    machine = cluster_preset(cluster)
    allowed = everything(job, machine)
    try:
        space = make_space(job, machine, allowed)
    except ParplanError:
        space = make_space(job, machine, without_limits(allowed))
    check_plan(space[0], job, machine.num_accelerators)


def test_devices_that_nodes_cannot_share_evenly() -> None:
    for name in ("13xh100", "17xh100", "31xh100"):
        with pytest.raises(ParplanError, match=r"; (\d+) or (\d+) can$") as caught:
            cluster_preset(name)
        below, above = str(caught.value).split("; ")[1].removesuffix(" can").split(" or ")
        for number in (below, above):
            assert cluster_preset(f"{number}xh100").num_accelerators == int(number)
