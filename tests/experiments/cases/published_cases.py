"""A made-up published run, as a line of a file has it, and changes of it."""

import json
from pathlib import Path
from typing import Any

from parplan.experiments.cases.read import Case, case_of


def table(**changes: object) -> dict[str, Any]:
    """A run of a small GPT on one node. `parallel__tp=4` changes a key within a part."""
    made: dict[str, Any] = {
        "id": "made-up-1",
        "group": "made-up",
        "source_where": "nowhere",
        "model": {
            "name": "GPT small",
            "seq_len": 1024,
            "layers": 4,
            "hidden": 1024,
            "heads": 16,
            "ffn": 4096,
            "vocab": 50304,
            "mlp": "gelu",
        },
        "hardware": {
            "accelerator": "NVIDIA A100-SXM4-80GB",
            "key": "A100-80",
            "n_accelerators": 8,
            "accelerators_per_node": 8,
        },
        "parallel": {
            "dp": 4,
            "tp": 2,
            "pp": 1,
            "micro_batch": 2,
            "global_batch": 32,
            "recompute": "none",
        },
        "precision": "bf16",
        "measured": {"step_time_s": 0.5},
        "quality": "A",
        "complete": True,
        "core": True,
    }
    for name, value in changes.items():
        part, _, key = name.partition("__")
        if key:
            made[part][key] = value
        else:
            made[part] = value
    return made


def case(**changes: object) -> Case:
    """The same, read."""
    return case_of(table(**changes), "here")


def write_cases(path: Path, *tables: dict[str, Any]) -> Path:
    """A file of such runs."""
    path.write_text("".join(json.dumps(one) + "\n" for one in tables))
    return path
