"""Published kernel measurements, as kernels of parplan with the seconds that they took.

`papers/microbench.jsonl` has one row per measurement with its source. Rows of kind "SimuMax op
efficiency" (MooreThreads/SimuMax, configs/system) give a shape and a share of the peak. Its
conventions, from its benchmark scripts: matmul and group_matmul are wall time of a queue of equal
products, 2 m n k operations; attention is causal, counted in full (2 b s^2 h (d_qk + d_v) forward,
2.5 times that backward), and timed on the device.
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from parplan._strict import parse_json, read_text
from parplan.errors import ParplanError, unknown_name
from parplan.hardware.kernels.kernel import Attention, Gemm, Layout

T = TypeVar("T")

DATA = Path(__file__).parents[1] / "papers" / "microbench.jsonl"
KIND = "SimuMax op efficiency"
ACCELERATORS = {"NVIDIA A100-PCIe": "a100-pcie-80gb", "NVIDIA B200-SXM": "b200"}
"""The presets that the accelerators of the data are."""
HELD_OUT_OF = 3
"""One shape in so many is held out."""
STAGES: dict[str, tuple[str, Layout]] = {
    # Which of M, N, K are m, n, k of each product of a linear layer, and how its operands lie.
    "fwd": ("MNK", "TN"),
    "bwd_grad_act": ("MKN", "NN"),
    "bwd_grad_w": ("NKM", "NT"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """One kernel, and the seconds that it took."""

    accelerator: str
    """Name of a preset."""
    op: str
    """As the source calls it: matmul, group_matmul, sdp_fwd, sdp_bwd."""
    kernel: Gemm | Attention
    seconds: float
    shape: str
    """The sizes, without layout and data types: what decides on which side a row is."""

    @property
    def held_out(self) -> bool:
        """Whether no constant and no choice may depend on it: a third of the shapes by digest.

        Rows of one shape, whatever their layout, direction and accelerator, are on one side.
        """
        return is_held_out(self.shape)


def is_held_out(shape: str) -> bool:
    """Whether a shape is of the third of all that no constant may depend on, by its digest."""
    return int(hashlib.sha256(shape.encode()).hexdigest(), 16) % HELD_OUT_OF == 0


def read_measurements(path: Path = DATA) -> list[Measurement]:
    """The kernels of a file that have a shape; raises `ParplanError` naming file and line."""
    return measurements_of(path, KIND, _measurement)


def measurements_of(
    path: Path, kind: str, read: Callable[[Mapping[str, Any]], T | None]
) -> list[T]:
    """What `read` makes of the rows of a kind in a file of JSON lines; None leaves a row out.

    Raises `ParplanError` naming file and line for what is no measurement, and where there is none.
    """
    found = []
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        try:
            row = parse_json(line, "not a measurement")
            measured = read(row) if row["kind"] == kind else None
        except ParplanError as error:
            raise ParplanError(f"{path}: line {number}: {error}") from None
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ParplanError(f"{path}: line {number}: not a measurement ({error!r})") from None
        if measured is not None:
            found.append(measured)
    if not found:
        raise ParplanError(f"{path}: no row of kind {kind!r}")
    return found


def _measurement(row: Mapping[str, Any]) -> Measurement:
    name, op = row["accelerator"], row["op"]
    if name not in ACCELERATORS:
        raise unknown_name("accelerator", name, ACCELERATORS)
    if op not in _READERS:
        raise unknown_name("operation", op, _READERS)
    sizes = dict(part.strip().split("=") for part in row["shape"].split(","))
    shape_keys, reader = _READERS[op]
    kernel, flops = reader(sizes)
    return Measurement(
        accelerator=ACCELERATORS[name],
        op=op,
        kernel=kernel,
        seconds=flops / (row["efficiency"] * row["peak_tflops"] * 1e12),
        shape=", ".join(f"{key}={sizes[key]}" for key in shape_keys),
    )


def _matmul(sizes: Mapping[str, str]) -> tuple[Gemm, float]:
    accumulate = sizes["accumulate"] == "True"
    kernel = Gemm(
        m=int(sizes["m"]),
        n=int(sizes["n"]),
        k=int(sizes["k"]),
        batch=int(sizes["b"]),
        dtype="bf16",
        transposed=_layout(sizes["layout"]),
        accumulate=accumulate,
        output_dtype=sizes["out_dtype"],
    )
    return kernel, kernel.flops


def _layout(text: str) -> Layout:
    for _, layout in STAGES.values():
        if layout == text:
            return layout
    raise ParplanError(f"layout {text!r}: expected TN, NN or NT")


def _group_matmul(sizes: Mapping[str, str]) -> tuple[Gemm, float]:
    order, layout = STAGES[sizes["stage"]]
    m, n, k = (int(sizes[name]) for name in order)
    accumulate = sizes["accumulate"] == "True"
    kernel = Gemm(
        m=m,
        n=n,
        k=k,
        batch=int(sizes["ng"]),
        dtype=sizes["dtype"],
        transposed=layout,
        accumulate=accumulate,
        output_dtype=sizes["main_grad_dtype" if accumulate else "out_dtype"],
        grouped=True,
    )
    return kernel, kernel.flops


def _attention(sizes: Mapping[str, str], backward: bool) -> tuple[Attention, float]:
    kernel = Attention(
        batch=int(sizes["batch"]),
        heads=int(sizes["head_num"]),
        kv_heads=int(sizes["kv_head_num"]),
        query_len=int(sizes["seq_len"]),
        key_len=int(sizes["seq_len"]),
        head_size=int(sizes["qk_head_dim"]),
        value_size=int(sizes["v_head_dim"]),
        dtype="bf16",
        direction="backward" if backward else "forward",
    )
    scores = float(kernel.batch * kernel.heads * kernel.query_len * kernel.key_len)
    forward = 2 * scores * (kernel.head_size + kernel.value_features)
    return kernel, 2.5 * forward if backward else forward


_ATTENTION_KEYS = ("batch", "seq_len", "head_num", "kv_head_num", "qk_head_dim", "v_head_dim")
_READERS: Mapping[str, tuple[tuple[str, ...], Any]] = {
    "matmul": (("b", "m", "k", "n"), _matmul),
    "group_matmul": (("ng", "M", "N", "K"), _group_matmul),
    "sdp_fwd": (_ATTENTION_KEYS, lambda sizes: _attention(sizes, backward=False)),
    "sdp_bwd": (_ATTENTION_KEYS, lambda sizes: _attention(sizes, backward=True)),
}
