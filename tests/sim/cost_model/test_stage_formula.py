"""The formula of stage costs: for one plan and for many, equal to the last bit."""

from dataclasses import fields

import numpy as np
import pytest

from parplan.sim.cost_model.stage_formula import (
    LayerWork,
    ParameterWork,
    Surroundings,
    costs_of_stage,
    with_transfers,
)
from parplan.sim.cost_model.stage_formula_of_rows import (
    SurroundingsOfRows,
    add_transfers,
    costs_of_rows,
)
from parplan.sim.costs import StageCosts

ROWS, STAGES = 300, 5


@pytest.mark.parametrize("message_s", [0.0, 3e-5])
@pytest.mark.parametrize("reduces_once", [False, True])
@pytest.mark.parametrize("offloads", [False, True])
@pytest.mark.parametrize("waits", [False, True])
def test_many_plans_at_once_cost_what_each_costs_alone(
    message_s: float, reduces_once: bool, offloads: bool, waits: bool
) -> None:
    rng = np.random.default_rng(7)
    counts = rng.integers(0, 9, (ROWS, STAGES, 1))
    gathers = rng.integers(1, 3, (ROWS, STAGES, 1))
    layers = np.concatenate((rng.exponential(0.1, (ROWS, STAGES, 3)), counts, gathers), axis=2)
    parameters = rng.exponential(0.2, (ROWS, STAGES, 3))
    send_s, latency_s = rng.exponential(1e-3, (2, ROWS))
    zero, overlaps = rng.integers(0, 4, ROWS), rng.integers(0, 2, ROWS)
    # Some are not moved at all, and a stage may have no blocks.
    transfers = rng.exponential(0.1, (ROWS, STAGES)) * rng.integers(0, 2, (ROWS, 1))
    blocks = np.arange(STAGES)

    found = costs_of_rows(
        layers,
        parameters,
        SurroundingsOfRows(
            send_s=send_s,
            latency_s=latency_s,
            zero_stage=zero.astype(np.float64),
            overlaps_reduction=overlaps.astype(np.float64),
            message_s=message_s,
            reduces_once=reduces_once,
            sharding_waits=waits,
            slowed_share=0.16,
            post_validation=not waits,
        ),
    )
    if offloads:
        add_transfers(found, transfers, blocks.astype(np.float64))

    assert set(found) <= {field.name for field in fields(StageCosts)}
    whole = {name: np.broadcast_to(values, (ROWS, STAGES)) for name, values in found.items()}
    for row, stage in np.ndindex(ROWS, STAGES):
        *seconds, count, times = layers[row, stage].tolist()
        one = costs_of_stage(
            LayerWork(*seconds, num_layers=int(count), backward_gathers=int(times)),
            ParameterWork(*parameters[row, stage].tolist()),
            Surroundings(
                send_s=float(send_s[row]),
                latency_s=float(latency_s[row]),
                message_s=message_s,
                zero_stage=int(zero[row]),
                overlaps_reduction=bool(overlaps[row]),
                reduces_once=reduces_once,
                sharding_waits=waits,
                slowed_share=0.16,
                post_validation=not waits,
            ),
        )
        if offloads:
            one = with_transfers(one, float(transfers[row, stage]), int(blocks[stage]))
        for field in fields(StageCosts):
            wanted = whole[field.name][row, stage] if field.name in whole else 0
            assert getattr(one, field.name) == wanted, (row, stage, field.name)


def test_a_stage_measured_as_a_whole_costs_what_was_measured() -> None:
    """No division by a number of layers that rounds: measured seconds stay as they are."""
    costs = costs_of_stage(
        LayerWork(0.1, 0.3, 0.0, num_layers=1),
        ParameterWork(gathered_s=0.0, reduced_s=0.7, optimizer_s=0.9),
        Surroundings(send_s=0.01, latency_s=0.02),
    )
    assert costs == StageCosts(
        forward_s=0.1,
        input_gradient_s=0.3,
        weight_gradient_s=0.0,
        send_s=0.01,
        latency_s=0.02,
        reduce_s=0.7,
        optimizer_s=0.9,
    )
