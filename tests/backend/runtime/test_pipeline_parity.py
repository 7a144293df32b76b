"""Plans executed by real processes against one process that trains alone (see parity_worker.py)."""

import json
from collections import defaultdict
from pathlib import Path

import pytest

from parplan.sim.schedules import CATALOGUE, make_schedule
from tests.torchrun import torchrun

TOLERANCE = 1e-9
"""Relative, in float64: two orders above what Adam makes of rounding differences in five steps,
far below what a micro-batch left out, or a gradient scaled wrongly, would change."""

LEVELS = ("none", "selective", "full")

PIPELINE = {"num_stages": 2, "num_micro_batches": 4, "batch_per_device": 2}

CHUNKED = "0F0,0F1,2F0,2F1,2B0,2B1,0B0,0B1\n1F0,1F1,3F0,3F1,3B0,3B1,1B0,1B1\n"

SPLIT = "0F0,0F1,0I0,0I1,0W0,0W1\n1F0,1I0,1F1,1I1,1W0,1W1\n"

CATALOGUED = {
    name: 2 if 2 in kind.virtual_stages else 1
    for name, kind in CATALOGUE.items()
    if kind.one_copy and name not in ("gpipe", "1f1b")
}
"""Virtual stages of the schedules that are not searched."""

TWO_PROCESSES = {
    **{
        f"pp2 {name}": {
            "plan": {**PIPELINE, "virtual_stages": virtual, "schedule": name},
        }
        for name, virtual in CATALOGUED.items()
    },
    **{
        f"dp2 {level}": {
            "plan": {
                "data_parallel": 2,
                "num_micro_batches": 2,
                "batch_per_device": 2,
                "recomputation": level,
            }
        }
        for level in LEVELS
    },
    **{
        f"pp2 {schedule} {level}": {
            "plan": {**PIPELINE, "schedule": schedule, "recomputation": level}
        }
        for schedule in ("gpipe", "1f1b")
        for level in LEVELS
    },
    "pp2 uneven": {"plan": {**PIPELINE, "stage_layers": [3, 1]}},
    "pp2 one micro-batch": {"plan": {"num_stages": 2, "batch_per_device": 8}},
    "pp2 other batches": {"plan": PIPELINE, "batches": [8, 6, 8, 3, 12]},
    "pp2 two chunks each": {
        "plan": {"num_stages": 2, "virtual_stages": 2, "num_micro_batches": 2},
        "schedule": CHUNKED,
        "batches": [2] * 5,
    },
    "pp2 split backward": {
        "plan": {"num_stages": 2, "num_micro_batches": 2, "batch_per_device": 4},
        "schedule": SPLIT,
    },
}

FOUR_PROCESSES = {
    f"pp2 dp2 {level}": {
        "plan": {
            "num_stages": 2,
            "data_parallel": 2,
            "num_micro_batches": 2,
            "batch_per_device": 2,
            "recomputation": level,
        }
    }
    for level in ("none", "selective")
}


def results(num_processes, cases):
    """What every rank found for every case: case -> rank -> its line."""
    worker = Path(__file__).with_name("parity_worker.py")
    done = torchrun(num_processes, worker, json.dumps(cases))
    found = defaultdict(dict)
    for line in done.stdout.splitlines():
        result = json.loads(line)
        found[result["case"]][result["rank"]] = result
    return found


@pytest.fixture(scope="module")
def two():
    return results(2, TWO_PROCESSES)


def check(found, num_processes):
    assert set(found) == set(range(num_processes))
    for result in found.values():
        assert result["loss"] < TOLERANCE
        assert result["weight"] < TOLERANCE < result["moved"]
    assert {i for result in found.values() for i in result["layers"]} == set(range(6))


@pytest.mark.parametrize("case", TWO_PROCESSES)
def test_two_processes_train_as_one(two, case):
    check(two[case], 2)


@pytest.mark.long
def test_four_processes_train_as_one():
    found = results(4, FOUR_PROCESSES)
    for case in FOUR_PROCESSES:
        check(found[case], 4)


@pytest.mark.parametrize("name", ["gpipe", "1f1b", *CATALOGUED])
def test_the_runtime_plays_our_instruction_lists(two, name):
    for rank, actions in enumerate(make_schedule(name, 2, 4, CATALOGUED.get(name, 1))):
        case = f"pp2 {name}" if name in CATALOGUED else f"pp2 {name} none"
        first_step = two[case][rank]["marks"][: len(actions)]
        assert first_step == [str(action) for action in actions]


def test_layers_go_where_the_plan_puts_them(two):
    assert two["pp2 uneven"][0]["layers"] == [0, 1, 2, 3]
    assert two["pp2 two chunks each"][0]["layers"] == [0, 1, 3]
