"""Reading and writing of `plan.json`: a plan with its workload and cluster."""

import dataclasses
from pathlib import Path
from typing import Any

from parplan._strict import read_json, unknown_key
from parplan.errors import ParplanError
from parplan.sim.plan import Plan
from parplan.sim.workload import Workload, workload_of_table

FORMAT = 1

KEYS = ("parplan_plan", "plan", "workload", "cluster")

PREDICTED = "predicted"
"""A key that may be there as well, with what `parplan plan` says of the plan."""


def plan_table(plan: Plan, workload: Workload, cluster: str) -> dict[str, Any]:
    """The JSON table of `plan` for `workload` on the cluster of that name."""
    return {
        "parplan_plan": FORMAT,
        "cluster": cluster,
        "workload": dataclasses.asdict(workload),
        "plan": plan.to_json(),
    }


def read_plan(path: Path) -> tuple[Plan, Workload, str]:
    """The plan, workload and cluster name of a `plan.json`.

    Raises `ParplanError` that names the file and the key for anything else.
    """
    table = read_json(path)
    if not isinstance(table, dict) or table.get("parplan_plan") != FORMAT:
        raise ParplanError(f"{path}: not a plan file: expected 'parplan_plan': {FORMAT}")
    for key in KEYS:
        if key not in table:
            raise ParplanError(f"{path}: missing key {key!r}")
    for key in table:
        if key not in (*KEYS, PREDICTED):
            raise ParplanError(f"{path}: {unknown_key(key, (*KEYS, PREDICTED))}")
    if not isinstance(table["cluster"], str):
        raise ParplanError(f"{path}: cluster: expected a name, got {table['cluster']!r}")
    plan = Plan.from_json(table["plan"], f"{path}: plan")
    return plan, workload_of_table(table["workload"], f"{path}: workload"), table["cluster"]
