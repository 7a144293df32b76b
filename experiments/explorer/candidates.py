"""The candidates of a search as columns for the page, and as `trials.csv` has them."""

import csv
import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from parplan._strict import read_text
from parplan.errors import ParplanError
from parplan.experiments.output.tables import WORDS, in_a_cell
from parplan.hardware.network.cluster import Cluster
from parplan.planners.costs.trial import Trial
from parplan.planners.explain.plan_words import plan_words
from parplan.sim.memory.peak import GB
from parplan.sim.plan import ZERO_FIELDS, Plan
from parplan.sim.workload import Workload

SCHEMA = "parplan.explorer/1"

MOST = 50_000
"""Candidates that a page has at most: the fastest that fit, then the others as they come."""

TEXTS = ("recomputation", "gradient_dtype", "schedule")
LISTS = ("recomputed_of_stages", "stage_layers")

LABELS = {
    "data_parallel": "DP",
    "tensor_parallel": "TP",
    "num_stages": "PP",
    "context_parallel": "CP",
    "expert_parallel": "EP",
    "zero_stage": "ZeRO stage",
    "num_micro_batches": "micro-batches",
    "batch_per_device": "micro-batch size",
    "virtual_stages": "chunks per rank",
    "sequence_parallel": "sequence parallel",
}


def candidate_table(
    workload: Workload, cluster: Cluster, trials: Sequence[Trial], memory_ratio: float
) -> dict[str, Any]:
    """Columns of all candidates; values of fields are numbers of a list of them.

    Fields that have one value in all candidates are left out.
    """
    left_out = max(0, len(trials) - MOST)
    if left_out:
        order = sorted(trials, key=lambda t: (t.step_s is None, t.step_s or 0.0))
        trials = order[:MOST]
    rows = [_fields(trial.plan) for trial in trials]
    columns: dict[str, Any] = {}
    for name in rows[0] if rows else ():
        values = sorted({row[name] for row in rows}, key=lambda v: (isinstance(v, str), v))
        if len(values) > 1:
            place = {value: i for i, value in enumerate(values)}
            columns[name] = {
                "label": LABELS.get(name, name.replace("_", " ")),
                "values": values,
                "of": [place[row[name]] for row in rows],
            }
    reasons = list(dict.fromkeys(trial.reason for trial in trials))
    device = cluster.accelerator.memory_bytes
    return {
        "schema": SCHEMA,
        "title": f"{workload.model.name} on {cluster.name}",
        "job": {
            "model": workload.model.name,
            "cluster": cluster.name,
            "accelerator": cluster.accelerator.name,
            "num_accelerators": cluster.num_accelerators,
            "seq_len": workload.seq_len,
            "global_batch": workload.global_batch,
            "tokens_per_step": workload.tokens,
            "model_flops": workload.model_flops,
            "peak_flop_per_s": cluster.accelerator.peak_flop_per_s.of(workload.product_dtype)
            * cluster.num_accelerators,
        },
        "device_gb": device / GB,
        "limit_gb": memory_ratio * device / GB,
        "left_out": left_out,
        "fields": columns,
        "text": [plan_words(trial.plan) for trial in trials],
        "step_s": [trial.step_s for trial in trials],
        "memory_gb": [
            round(max(trial.memory_bytes) / GB, 3) if trial.memory_bytes else None
            for trial in trials
        ],
        "reasons": reasons,
        "reason": [reasons.index(trial.reason) for trial in trials],
        "plans": [_short(trial.plan) for trial in trials],
    }


def _fields(plan: Plan) -> dict[str, Any]:
    """The fields that are shown; values that no axis takes as text."""
    table = plan.to_json()
    found: dict[str, Any] = {}
    for name, value in table.items():
        if name in ZERO_FIELDS:
            continue
        if isinstance(value, bool):
            found[name] = "yes" if value else "no"
        elif isinstance(value, tuple | list):
            found[name] = in_a_cell(value)
        else:
            found[name] = "all" if value is None else value
    found["zero_stage"] = plan.zero_stage
    return found


def _short(plan: Plan) -> dict[str, Any]:
    """The fields of a plan that have other values than by default."""
    default = Plan().to_json()
    return {name: value for name, value in plan.to_json().items() if value != default[name]}


def read_trials(path: Path) -> list[Trial]:
    """The candidates of a `trials.csv`; raises `ParplanError` for what parplan did not write."""
    rows = csv.DictReader(io.StringIO(read_text(path)), strict=True)
    try:
        return [_trial(row) for row in rows]
    except (KeyError, ValueError, TypeError, AttributeError, csv.Error, ParplanError) as error:
        raise ParplanError(f"{path}: row {rows.line_num}: cannot be read: {error}") from None


def _positive(word: str) -> float:
    number = float(word)
    if not 0 < number < math.inf:
        raise ValueError(f"expected a number above 0, got {word}")
    return number


def _trial(row: dict[str, str]) -> Trial:
    fields: dict[str, Any] = {}
    for name, default in Plan().to_json().items():
        text = row[name]
        if isinstance(default, bool):
            fields[name] = {"True": True, "False": False}[text]
        elif name in TEXTS:
            fields[name] = text
        elif name == "recomputed_ops":
            fields[name] = text.split(WORDS)
        elif name in LISTS:
            fields[name] = [int(word) for word in text.split()] or None
        else:
            fields[name] = int(text) if text else None
    step_s = row["step_s"]
    return Trial(
        plan=Plan.from_json(fields),
        reason=row["reason"],
        memory_bytes=tuple(_positive(word) for word in row["memory_bytes_per_stage"].split()),
        step_s=_positive(step_s) if step_s else None,
    )
