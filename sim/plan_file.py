"""Reading and writing of `plan.json`: a plan with its workload and cluster."""

import dataclasses
from pathlib import Path
from typing import Any

from parplan._strict import read_json
from parplan.errors import ParplanError
from parplan.sim.plan import Plan
from parplan.sim.workload import Workload, workload_of_table

FORMAT = 1


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
    for key in ("plan", "workload", "cluster"):
        if key not in table:
            raise ParplanError(f"{path}: missing key {key!r}")
    if not isinstance(table["cluster"], str):
        raise ParplanError(f"{path}: cluster: expected a name, got {table['cluster']!r}")
    plan = Plan.from_json(table["plan"], f"{path}: plan")
    return plan, workload_of_table(table["workload"], f"{path}: workload"), table["cluster"]
