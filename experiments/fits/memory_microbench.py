"""Published measurements of kernels bound by memory, as what they read and write.

`papers/microbench_memory_bound.jsonl` has Liger-Kernel's benchmark tables, a row each with its
source. A row becomes the bytes that the simulator's layers count for the same operation, so that a
share of the bandwidth that is fitted here means the same there. Rows of whole MLPs, of experts and
of losses with their product are no kernels bound by memory and are left out, and so is
`group_norm`, which no language model has.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from parplan.experiments.fits.microbench import is_held_out, measurements_of

DATA = Path(__file__).parents[1] / "papers" / "microbench_memory_bound.jsonl"
KIND = "memory_bound_kernel"
ACCELERATORS = {
    "NVIDIA A100-SXM4-80GB": "a100",
    "NVIDIA H100 80GB HBM3": "h100",
    "NVIDIA B200": "b200",
    "NVIDIA GeForce RTX 4090": "rtx4090",
    "NVIDIA GeForce RTX 3090": "rtx3090",
}
"""The presets that the accelerators of the data are."""
VOCABULARIES = {
    "llama_2_7b": 32000,
    "llama_3_8b": 128256,
    "deepseek_v2_lite": 102400,
    "deepseek_v3": 129280,
    "qwen2.5_7b": 152064,
    "qwen2.5_14b": 152064,
    "qwen2.5_72b": 152064,
}
"""Of the models that some rows name: their published config.json (vocab_size)."""
CACHE_BYTES = {"a100": 40e6, "h100": 50e6, "b200": 126e6, "rtx4090": 72e6, "rtx3090": 6e6}
"""Second-level caches (NVIDIA's white papers of the architectures; the B200's as torch's device
properties print it)."""
UNEXPLAINED = ("NVIDIA B200", "fused_add_rms_norm")
"""Left out where sum and normalisation are kernels of their own: they take 10 times what the fused
one takes there, and twice on an H100."""

NORM_CHAIN_FORWARD = {2: 36.0, 4: 28.0}
"""Bytes of a value that the chain of an unfused normalisation moves (`sim.layers.shapes.norm`),
by the bytes of a value (of fp32 nothing is cast); its backward moves twice as many."""

HOST_GROWTH = 1.3
"""A row is bound by the host where twice the work, or what took half the work, takes less than so
many times as long, or more than one over that."""

Pass = Literal["forward", "backward", "full"]


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryMeasurement:
    """One operation of a pass, what it moves, and the seconds that it took."""

    accelerator: str
    family: str
    provider: str
    op: str
    """The benchmark, the implementation and what is timed."""
    forward_bytes: float
    backward_bytes: float
    """0 where that direction is not timed."""
    seconds: float
    shape: str
    series: str
    """The shape without the size that a table of the benchmark runs over."""
    wide: bool = False
    """Whether its values have 32 bits."""

    @property
    def num_bytes(self) -> float:
        """What both directions move, as far as they are timed."""
        return self.forward_bytes + self.backward_bytes

    @property
    def held_out(self) -> bool:
        """Whether no constant may depend on it: a third of the shapes by digest."""
        return is_held_out(self.shape)


def bound_by_host(rows: Sequence[MemoryMeasurement]) -> set[MemoryMeasurement]:
    """The rows whose time does not grow with their work, which tell about the host alone.

    The longest of a series is judged by the next shorter one.
    """
    series: dict[tuple[str, ...], list[MemoryMeasurement]] = {}
    for row in rows:
        series.setdefault((row.accelerator, row.op, row.series), []).append(row)
    found = set()
    for own in series.values():
        own.sort(key=lambda row: row.num_bytes)
        for row in own:
            longer = [o for o in own if o.num_bytes >= 1.9 * row.num_bytes]
            shorter = [o for o in own if row.num_bytes >= 1.9 * o.num_bytes]
            if longer:
                near = min(o.seconds for o in longer) / row.seconds
            elif shorter:
                near = row.seconds / max(o.seconds for o in shorter)
            else:
                continue
            if near < HOST_GROWTH:
                found.add(row)
    return found


def read_memory_measurements(path: Path = DATA) -> list[MemoryMeasurement]:
    """The rows of a file that are understood; raises `ParplanError` naming file and line."""
    return measurements_of(path, KIND, _understood)


def _understood(row: Mapping[str, Any]) -> MemoryMeasurement | None:
    if "time_ms" not in row or row["kernel"] not in _READERS or _is_unexplained(row):
        return None
    return _measurement(row)


def _is_unexplained(row: Mapping[str, Any]) -> bool:
    where = row["accelerator"], row["kernel"]
    return where == UNEXPLAINED and "fused_add" not in row["provider"]


def _measurement(row: Mapping[str, Any]) -> MemoryMeasurement:
    kernel, timed = row["kernel"], row["pass"]
    forward, backward, family, provider = _READERS[kernel](row)
    both = timed == "backward" and kernel in _BACKWARD_IS_ALL
    if timed in ("forward", "no-grad-forward"):
        backward = 0.0
    elif timed == "backward" and not both:
        forward = 0.0
    sizes = {
        k: v for k, v in row["config"].items() if k not in ("eps", "hidden_act", row["x_name"])
    }
    return MemoryMeasurement(
        accelerator=ACCELERATORS[row["accelerator"]],
        family=family,
        provider=provider,
        op=f"{kernel} {row['provider']} {timed}",
        forward_bytes=forward,
        backward_bytes=backward,
        seconds=row["time_ms"] * 1e-3,
        shape=f"{kernel} {row['x_name']}={row['x_value']} {json.dumps(sizes, sort_keys=True)}",
        series=f"{row['x_name']} {json.dumps(sizes, sort_keys=True)}",
        wide=_value_bytes(row) == 4,
    )


_BACKWARD_IS_ALL = ("megatron_swiglu", "megatron_cross_entropy")
"""Benchmarks whose `backward` takes what `full` does, row by row: it has the forward in it."""

_Traffic = tuple[float, float, str, str]
"""Bytes forward and backward, family, provider."""


def _value_bytes(row: Mapping[str, Any]) -> int:
    # The tables of losses on an A100 have logits in fp32, others in 16 bits.
    if row["kernel"] == "cross_entropy" and row["x_name"] == "V":
        return 4
    return 4 if "float32" in row["config"].get("dtype", "bfloat16") else 2


def _provider(name: str) -> str:
    return "triton" if "liger" in name or name == "torch_compile" else "torch"


def _hidden(row: Mapping[str, Any]) -> float:
    """Values of the tensor that is normalised or mapped."""
    config, x = row["config"], float(row["x_value"])
    if "hidden_size" in config:
        return x * float(config["hidden_size"])
    return x * float(config["M"] if "M" in config else config["S"] * config["B"])


def _norm(row: Mapping[str, Any]) -> _Traffic:
    size, values, provider = _value_bytes(row), _hidden(row), str(row["provider"])
    adds = row["kernel"] == "fused_add_rms_norm"
    if "fused_add" in provider:
        return 4 * size * values, 4 * size * values, "norm", "triton"
    sums = 3 * size * values if adds else 0.0
    if row["kernel"] not in ("layer_norm", "megatron_rms_norm") and "liger" not in provider:
        chain = NORM_CHAIN_FORWARD[size] * values
        return chain + sums, 2 * chain + sums, "norm", "eager"
    # The sum beside a normalisation, where there is one, moves what it does at the same share.
    return 2 * size * values + sums, 3 * size * values + sums, "norm", _provider(provider)


def _activation(row: Mapping[str, Any]) -> _Traffic:
    config, x = row["config"], float(row["x_value"])
    eager = "liger" not in row["provider"]
    if row["kernel"] == "relu_squared":
        size = 2.0 * config["M"] * x
        # Two kernels of torch, and two backward of three operands.
        return (4 * size, 6 * size, "copy", "eager") if eager else _plain(size)
    size = 2.0 * config["S"] * config["B"] * x
    if eager:
        return 5 * size, 9 * size, "activation", "eager"
    return 3 * size, 5 * size, "activation", "triton"


def _plain(size: float) -> _Traffic:
    return 2 * size, 3 * size, "copy", "triton"


def _rotary(row: Mapping[str, Any]) -> _Traffic:
    config, x = row["config"], float(row["x_value"])
    heads = config.get("num_q_heads") or config["num_attention_heads"]
    kv_heads = config.get("num_kv_heads") or config["num_key_value_heads"]
    tokens = x if row["x_name"] == "T" else config["seq_len"]
    hidden = x if row["x_name"] == "H" else config["hidden_size"]
    size = _value_bytes(row) * tokens * hidden * (1 + kv_heads / heads)
    if "liger" in row["provider"]:
        return 2 * size, 2 * size, "rotary", "triton"
    return 10 * size, 10 * size, "rotary", "eager"


def _softmax(row: Mapping[str, Any]) -> _Traffic:
    size = _value_bytes(row) * _hidden(row)
    return 2 * size, 3 * size, "softmax", _provider(row["provider"])


def _loss(row: Mapping[str, Any]) -> _Traffic:
    config, x, provider = row["config"], row["x_value"], row["provider"]
    if row["x_name"] == "V":
        values = x * config["T" if "T" in config else "S"] * config["B"]
    elif row["x_name"] == "model_config":
        values = float(VOCABULARIES[x] * config["seq_len"] * config["bsz"])
    else:
        values = x * config["vocab_size"]
    size = _value_bytes(row)
    if provider.startswith("megatron"):
        return (size + 12) * values, (size + 4) * values, "loss", "megatron"
    if "liger" in provider:
        # Two passes read the logits, and the gradient goes over them; backward it is scaled.
        return 3 * size * values, 2 * size * values, "loss", "triton"
    return (size + 12) * values, (size + 16) * values, "loss", "eager"


def _embedding(row: Mapping[str, Any]) -> _Traffic:
    """Rows that are read again come from the second-level cache as far as it holds the table."""
    config = row["config"]
    size = 4.0 * config["B"] * config["T"] * config["D"]
    table = 4.0 * row["x_value"] * config["D"]
    missed = 1 - min(1.0, CACHE_BYTES[ACCELERATORS[row["accelerator"]]] / table)
    read = min(size, table) + max(0.0, size - table) * missed
    return size + read, 2 * size + read + table, "embedding", _provider(row["provider"])


_READERS: Mapping[str, Any] = {
    **dict.fromkeys(("rms_norm", "layer_norm", "fused_add_rms_norm"), _norm),
    "megatron_rms_norm": _norm,
    "megatron_swiglu": _activation,
    "relu_squared": _activation,
    "rope": _rotary,
    "softmax": _softmax,
    "cross_entropy": _loss,
    "megatron_cross_entropy": _loss,
    "embedding": _embedding,
}
