"""Sharded and tensor-parallel plans against one process that trains alone (parity_worker.py)."""

import pytest

from parplan.sim.plan import zero_fields
from tests.backend.runtime.test_pipeline_parity import check, results

STEPS = [8, 4, 8]
"""Batches: torch gets ready anew for another size."""

PIPELINE = {"num_stages": 2, "num_micro_batches": 2}

SPLIT = {"tensor_parallel": 2, "num_micro_batches": 2}

CONTEXT = {"context_parallel": 2, "num_micro_batches": 2}


def cases(plans, models=(None,), levels=("none", "full")):
    """Every plan without and with recomputation; the micro-batches make a batch of 8."""
    return {
        f"{name} {model or ''} {level}": {
            "plan": {
                **plan,
                "recomputation": level,
                "batch_per_device": 8
                // (plan.get("num_micro_batches", 1) * plan.get("data_parallel", 1)),
            },
            "model": model,
            "batches": STEPS,
        }
        for name, plan in plans.items()
        for model in models
        for level in levels
    }


TWO_PROCESSES = {
    **cases(
        {
            f"dp2 zero{stage}": {"data_parallel": 2, "num_micro_batches": 2, **zero_fields(stage)}
            for stage in (1, 2, 3)
        }
    ),
    **cases({"tp2": SPLIT, "tp2 sp": {**SPLIT, "sequence_parallel": True}}, ("gpt", "llama")),
    **cases({"pp2 recomputed_layers": {**PIPELINE, "recomputed_layers": 1}}),
    **cases(
        {
            "pp2 1f1b": PIPELINE,
            "pp2 zb-v": {**PIPELINE, "schedule": "zb-v", "virtual_stages": 2},
            "dp2 zero3": {"data_parallel": 2, **zero_fields(3)},
            "tp2 sp": {**SPLIT, "sequence_parallel": True},
        },
        ("gemma", "falcon"),
        ("none",),
    ),
    **cases({"cp2": CONTEXT}, ("gpt", "llama")),
    **cases(
        {"cp2 m1": {"context_parallel": 2}, "cp2 zero3": {**CONTEXT, **zero_fields(3)}},
        ("gemma", "falcon"),
        ("none",),
    ),
}

FOUR_PROCESSES = {
    **cases(
        {
            **{
                f"pp2 zero{stage}": {**PIPELINE, "data_parallel": 2, **zero_fields(stage)}
                for stage in (1, 2, 3)
            },
            "pp2 dp2 zb-h1": {**PIPELINE, "data_parallel": 2, "schedule": "zb-h1"},
            "pp2 v2 zero3": {
                **PIPELINE,
                "data_parallel": 2,
                "schedule": "interleaved-1f1b",
                "virtual_stages": 2,
                **zero_fields(3),
            },
            "pp2 zb-v zero2": {
                **PIPELINE,
                "data_parallel": 2,
                "schedule": "zb-v",
                "virtual_stages": 2,
                **zero_fields(2),
            },
            "dp4 in groups of 2": {"data_parallel": 4, "shard_group": 2, **zero_fields(3)},
        }
    ),
    **cases(
        {
            "dp2 tp2": {**SPLIT, "data_parallel": 2},
            "dp2 tp2 sp zero2": {
                **SPLIT,
                "data_parallel": 2,
                "sequence_parallel": True,
                **zero_fields(2),
            },
            "dp2 tp2 zero3": {**SPLIT, "data_parallel": 2, **zero_fields(3)},
            "pp2 tp2": {**PIPELINE, **SPLIT},
            "pp2 tp2 sp zb-h1": {
                **PIPELINE,
                **SPLIT,
                "sequence_parallel": True,
                "schedule": "zb-h1",
            },
        },
        ("gpt",),
    ),
    **cases(
        {
            "pp2 cp2": {**PIPELINE, **CONTEXT},
            "pp2 cp2 zb-h1": {**PIPELINE, **CONTEXT, "schedule": "zb-h1"},
            "dp2 cp2": {**CONTEXT, "data_parallel": 2},
            "dp2 cp2 zero2": {**CONTEXT, "data_parallel": 2, **zero_fields(2)},
            "cp2 tp2": {**SPLIT, **CONTEXT},
        },
        ("gpt",),
    ),
    # The ends of the model are tied over stages, replicas and splits.
    **cases(
        {
            "pp2 zero3": {**PIPELINE, "data_parallel": 2, **zero_fields(3)},
            "pp2 dp2 zb-h1": {**PIPELINE, "data_parallel": 2, "schedule": "zb-h1"},
            "pp2 tp2 sp": {**PIPELINE, **SPLIT, "sequence_parallel": True},
        },
        ("gemma",),
        ("full",),
    ),
}


def quick(cases):
    """Every plan and model once, without and with recomputation in turns."""
    names = {name.rsplit(" ", 1)[0]: [] for name in cases}
    for name in cases:
        names[name.rsplit(" ", 1)[0]].append(name)
    return {own[i % len(own)] for i, own in enumerate(names.values())}


QUICK_OF_FOUR = (
    *("pp2 v2 zero3", "dp4 in groups of 2", "dp2 tp2 sp zero2 gpt"),
    *("pp2 tp2 sp zb-h1 gpt", "pp2 tp2 sp gemma"),
)
"""Every mechanism once, beside each other: what two processes cannot show."""


def parameters(cases, only=()):
    """All of them; what is not quick, or not of `only`, is `long`."""
    fast = {name for name in quick(cases) if not only or name.rsplit(" ", 1)[0].strip() in only}
    # Falcon and Gemma differ in the ends of the model; each split has one of them.
    fast -= {
        name for name in fast if name.startswith(("cp2", "pp2 zb-v", "dp2")) and "falcon" in name
    }
    return [pytest.param(c, marks=() if c in fast else pytest.mark.long) for c in cases]


def chosen(request, cases):
    """Those of the tests that are run."""
    own = [item for item in request.session.items if item.path == request.path]
    wanted = {item.callspec.params["case"] for item in own}
    return {name: case for name, case in cases.items() if name in wanted}


@pytest.fixture(scope="module")
def two(request):
    return results(2, chosen(request, TWO_PROCESSES))


@pytest.fixture(scope="module")
def four(request):
    return results(4, chosen(request, FOUR_PROCESSES))


@pytest.mark.parametrize("case", parameters(TWO_PROCESSES))
def test_two_processes_train_as_one(two, case):
    check(two[case], 2)


@pytest.mark.parametrize("case", parameters(FOUR_PROCESSES, QUICK_OF_FOUR))
def test_four_processes_train_as_one(four, case):
    check(four[case], 4)
