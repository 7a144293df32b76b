"""`parplan benchmark --unseen`: predictions of executed plans of models that nothing was made for.

Six shapes of a GPT, and the blocks of four architectures. All sizes are of this file alone.
"""

import dataclasses
import statistics
from collections.abc import Iterator, Mapping
from typing import Any

from parplan.backend.execution.result import Execution
from parplan.sim.models.model import Model, model_preset
from parplan.sim.models.parts import LocalAttention
from parplan.sim.plan import Plan
from parplan.sim.software.framework import NO_OVERHEAD
from parplan.sim.workload import Workload

BUDGET_S = 60.0

Changes = dict[str, Any]

SHAPES: dict[str, tuple[Changes, int, int]] = {
    "narrow and deep": ({"num_layers": 12, "hidden_size": 128, "ffn_size": 512}, 64, 16),
    "wide and shallow": ({"num_layers": 6, "hidden_size": 512, "ffn_size": 1024}, 32, 8),
    "long sequences": ({"num_layers": 8, "hidden_size": 192, "ffn_size": 768}, 512, 4),
    "large vocabulary": ({"num_layers": 8, "hidden_size": 128, "vocab_size": 8192}, 64, 8),
    "many heads": ({"num_layers": 8, "num_heads": 16, "num_kv_heads": 16}, 128, 8),
    "small steps": ({"num_layers": 8, "hidden_size": 64, "ffn_size": 256}, 32, 8),
}
"""Name: (what differs from the preset, tokens of a sequence, sequences of a batch)."""

ARCHITECTURES: dict[str, Changes] = {
    "Llama's blocks": {"mlp": "gated", "norm": "rmsnorm", "bias": False, "num_kv_heads": 2},
    "Qwen 3's blocks": {
        **{"mlp": "gated", "norm": "rmsnorm", "bias": False, "num_kv_heads": 4},
        **{"query_key_norm": True, "head_dim": 48},
    },
    "Gemma 2's blocks": {
        **{"mlp": "gated", "norm": "rmsnorm", "bias": False, "num_kv_heads": 4},
        **{"block_norms": 4, "local": LocalAttention(window=32, global_every=2)},
    },
    "Falcon's blocks": {
        **{"bias": False, "parallel_block": True, "block_norms": 1, "alibi": True},
    },
}


def models(*, small: bool = False) -> dict[str, tuple[Workload, list[Plan]]]:
    """Every model with the plans that run of it; small: two of them, of fewer layers."""
    base = model_preset("gpt-tiny")
    found = {name: _job(base, *shape) for name, shape in SHAPES.items()}
    for name, changes in ARCHITECTURES.items():
        found[name] = _job(base, {"learned_positions": 0, **changes}, 64, 8)
    if small:
        names = ("small steps", "Llama's blocks")
        return {name: _job(found[name][0].model, {"num_layers": 4}, 16, 8) for name in names}
    return found


def _job(base: Model, changes: Changes, seq_len: int, batch: int) -> tuple[Workload, list[Plan]]:
    positions = base.learned_positions and max(base.learned_positions, seq_len)
    table = {"learned_positions": positions, **changes}
    workload = Workload(
        model=dataclasses.replace(base, **table),
        seq_len=seq_len,
        global_batch=batch,
        precision="fp32",
        framework=NO_OVERHEAD,
    )
    pipeline: Changes = {"num_stages": 2, "num_micro_batches": 4, "batch_per_device": batch // 4}
    plans = [
        Plan(data_parallel=2, batch_per_device=batch // 2),
        Plan(context_parallel=2, batch_per_device=batch),
        Plan(**pipeline, schedule="1f1b"),
        Plan(**pipeline, schedule="zb-h1", recomputation="full"),
    ]
    return workload, plans


def line(name: str, execution: Execution) -> str:
    """One model."""
    errors = [e.error for e in execution.executed]
    noise = statistics.mean(e.spread for e in execution.executed)
    memory = [e.memory_error for e in execution.executed if e.memory_error is not None]
    return (
        f"{name:18} mean error {statistics.mean(map(abs, errors)):5.1%}, worst "
        f"{max(errors, key=abs):+6.1%}; noise {noise:5.1%}; memory worst "
        f"{max(memory, key=abs, default=0.0):+5.1%}"
    )


def summary(executions: Mapping[str, Execution]) -> Iterator[str]:
    """All of them."""
    every = [e for execution in executions.values() for e in execution.executed]
    errors = [abs(e.error) for e in every]
    means = [statistics.mean(abs(e.error) for e in x.executed) for x in executions.values()]
    yield (
        f"{len(executions)} models, {len(every)} plans: mean error {statistics.mean(errors):.1%}, "
        f"of the worst model {max(means):.1%}, of the worst plan {max(errors):.1%}; noise "
        f"{statistics.mean(e.spread for e in every):.1%}"
    )
