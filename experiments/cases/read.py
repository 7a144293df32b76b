"""Published runs from files of one JSON object per line."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

from parplan._strict import build, parse_json, read_text
from parplan.errors import ParplanError

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseExperts:
    """`model.moe` of a case."""

    experts: int
    topk: int
    moe_ffn: int
    shared: int = 0
    first_dense_layers: int = 0
    every: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseModel:
    """`model` of a case: the architecture, as far as the source or its repository tells it."""

    name: str
    seq_len: int | None = None
    layers: int | None = None
    hidden: int | None = None
    heads: int | None = None
    kv_heads: int | None = None
    ffn: int | None = None
    vocab: int | None = None
    mlp: str | None = None
    head_dim: int | None = None
    moe: CaseExperts | None = None
    attention: str | None = None
    hybrid: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseHardware:
    """`hardware` of a case."""

    accelerator: str
    key: str
    n_accelerators: int
    accelerators_per_node: int
    note: str | None = None
    intra_link: str | None = None
    inter_link: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseParallel:
    """`parallel` of a case: degrees, batch, recomputation, schedule."""

    dp: int | None = None
    tp: int | None = None
    pp: int | None = None
    vpp: int | None = None
    cp: int | None = None
    ep: int | None = None
    etp: int | None = None
    sp: bool | None = None
    zero_stage: int | None = None
    zero_group: str | None = None
    fsdp: int | None = None
    micro_batch: float | None = None
    n_microbatches: int | None = None
    global_batch: int | None = None
    recompute: str | None = None
    schedule: str | None = None
    attention_kernel: str | None = None
    overlap: str | None = None
    first_last_stage: str | None = None
    act_offload: bool | None = None
    async_tp: bool | None = None
    compile: bool | None = None
    mp_mode: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """`measured` of a case, in the source's own terms."""

    step_time_s: float | None = None
    tokens_per_s: float | None = None
    tokens_per_s_per_gpu: float | None = None
    samples_per_s: float | None = None
    samples_per_s_per_gpu: float | None = None
    peak_memory_gb: float | None = None
    peak_memory_gib: float | None = None
    bubble_rate: float | None = None
    tflops_per_gpu: float | None = None
    """By the source's own count of operations."""
    mfu: float | None = None
    hfu: float | None = None
    """As `mfu`, with what is recomputed."""
    oom: bool = False

    def __post_init__(self) -> None:
        for name in NUMBERS:
            value = getattr(self, name)
            # A rate that is rounded to zero says nothing.
            least = "positive" if name in ABOVE_ZERO else "at least 0"
            if value is not None and (value < 0 or (value == 0 and name in ABOVE_ZERO)):
                raise ParplanError(f"{name}: must be {least}, got {value:g}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One published run."""

    id: str
    group: str
    source_where: str
    model: CaseModel
    hardware: CaseHardware
    parallel: CaseParallel
    precision: str
    measured: Measured
    derived_step_s: float | None
    """Worked out from the source's FLOP rate, where it printed neither a time nor tokens."""
    quality: str
    complete: bool
    core: bool
    source: str = ""
    """Where it was published, with the release of what is measured."""
    table: str = ""
    """Which table of the source has it."""
    task: str | None = None
    """Pre-Training, SFT, LoRA; None where the source has pre-training alone."""
    notes: str = ""
    repeat_of: str = ""
    """The id of another run of the same configuration; empty where it is told by equal fields."""

    @property
    def step_s(self) -> float | None:
        """The measured step, from whatever the source printed; None if it can't be told."""
        m, n = self.measured, self.hardware.n_accelerators
        batch, seq_len = self.parallel.global_batch, self.model.seq_len
        if m.step_time_s is not None:
            return m.step_time_s
        if batch is None or seq_len is None:
            return self.derived_step_s
        for rate, amount in (
            (m.tokens_per_s_per_gpu, batch * seq_len / n),
            (m.tokens_per_s, batch * seq_len),
            (m.samples_per_s_per_gpu, batch / n),
            (m.samples_per_s, batch),
        ):
            if rate:
                return amount / rate
        return self.derived_step_s

    @property
    def peak_memory_bytes(self) -> float | None:
        """The reported peak of the fullest device; None where there is none."""
        if self.measured.peak_memory_gib is not None:
            return self.measured.peak_memory_gib * 2**30
        if self.measured.peak_memory_gb is not None:
            return self.measured.peak_memory_gb * 1e9
        return None


def read_cases(path: Path) -> tuple[Case, ...]:
    """The cases of a file; raises `ParplanError` with file, line and key for a malformed one."""
    return tuple(
        case_of(_object(line, f"{path}: line {number}"), f"{path}: line {number}")
        for number, line in enumerate(read_text(path).splitlines(), start=1)
        if line.strip()
    )


def case_of(table: Mapping[str, Any], where: str) -> Case:
    """The case of one JSON object; keys that are not needed are ignored."""
    derived = table.get("derived") or {}
    return Case(
        id=_plain(table, "id", str, where),
        group=_plain(table, "group", str, where),
        source_where=_plain(table, "source_where", str, where),
        model=_part(CaseModel, table, "model", where),
        hardware=_part(CaseHardware, table, "hardware", where),
        parallel=_part(CaseParallel, table, "parallel", where),
        precision=_plain(table, "precision", str, where),
        measured=_part(Measured, table, "measured", where),
        derived_step_s=derived.get("step_time_s") or derived.get("step_time_s_from_tflops"),
        quality=_plain(table, "quality", str, where),
        complete=_plain(table, "complete", bool, where),
        core=_plain(table, "core", bool, where),
        source=str(table.get("source") or ""),
        table=table.get("table") or "",
        task=None if table.get("task") is None else _plain(table, "task", str, where),
        notes=table.get("notes") or "",
        repeat_of="" if table.get("repeat_of") is None else _plain(table, "repeat_of", str, where),
    )


def _object(line: str, where: str) -> Mapping[str, Any]:
    table = parse_json(line, where)
    if not isinstance(table, dict):
        raise ParplanError(f"{where}: expected an object, got {type(table).__name__}")
    return table


def _part(cls: type[T], table: Mapping[str, Any], name: str, where: str) -> T:
    part = table.get(name)
    if not isinstance(part, Mapping):
        raise ParplanError(f"{where}: {name}: expected an object, got {part!r}")
    return build(cls, _known(part, (f.name for f in fields(cls))), f"{where}: {name}")  # type: ignore[arg-type]


def _known(part: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """The keys that are read and given; whole numbers that are written as 8.0 are whole."""
    found = {name: part[name] for name in names if part.get(name) is not None}
    return {
        name: int(value)
        if isinstance(value, float) and value.is_integer() and name not in RATES
        else value
        for name, value in found.items()
    }


RATES = tuple(f.name for f in fields(Measured))
ABOVE_ZERO = ("step_time_s", "peak_memory_gb", "peak_memory_gib")
NUMBERS = tuple(name for name in RATES if name != "oom")


def _plain(table: Mapping[str, Any], name: str, kind: type[T], where: str) -> T:
    value = table.get(name)
    if not isinstance(value, kind):
        raise ParplanError(f"{where}: {name}: expected {kind.__name__}, got {value!r}")
    return value
