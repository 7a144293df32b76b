"""Habits of a source's software that its cases do not state."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from parplan._strict import build, read_toml
from parplan.errors import ParplanError
from parplan.experiments.cases.read import Case
from parplan.sim.software.framework import framework
from parplan.sim.software.habits import MEGATRON, Software
from parplan.sim.workload import AttentionKind

ATTENTION: dict[str, AttentionKind] = {
    "flashattention-1": "flash-1",
    "flash": "flash",
    "fused softmax": "unfused",
    "": "eager",
}
"""What a case's `attention_kernel` has, first match, and the kernel that it stands for."""

STACKS = Path(__file__).parent / "stacks.toml"


@dataclass(frozen=True, slots=True, kw_only=True)
class Stack:
    """Kernels and overlap of a training stack."""

    attention: AttentionKind
    dropout: bool
    fused_norms: bool
    fused_elementwise: bool
    """Whether rotary positions and gated activation functions are one kernel each."""
    fused_loss: bool
    fp32_gradients: bool
    """Whether gradients are added up and reduced in fp32."""
    bucket_bytes: float
    """Buffers of the data-parallel communication."""
    overlap_gradient_reduction: bool
    overlap_parameter_gather: bool
    overlap_tensor_parallel: bool
    """Whether products are cut so that blocking tensor-parallel exchanges go along."""
    framework: str
    """A table of `sim/software/frameworks.toml`."""
    software: Software = MEGATRON
    schedules: tuple[str, ...] = ("1f1b", "interleaved-1f1b")
    """Of pipelines that it has (Megatron-LM: megatron/core/pipeline_parallel/schedules.py)."""
    pipelines_keep_parameters: bool = False
    """Whether a pipeline of fully sharded stages gathers parameters once a step (ZeRO-2)."""
    ends_as_layers: int = 0
    """Layers beside the blocks that count where a pipeline is cut into equal numbers of layers:
    one before them (the embedding), the others after them (final norm, output projection)."""
    reported_memory: Literal["allocated", "reserved", "device"] = "allocated"
    """What a source's figures of memory count: what the allocator gave out, what it reserved, or
    all of the device that is used (nvidia-smi)."""
    vocab_size: int | None = None
    """The vocabulary where a source does not print it and the case's is a guess."""
    source: str


def stack_of(case: Case, path: Path = STACKS) -> Stack:
    """The stack of the case's group, or the default one, with what the case itself says.

    A table "group/words" changes that of the group for cases that have these words in the name of
    their table, precision, model, accelerator or source; "words + words" asks for both. Later ones
    go over earlier ones, and what they say of `software` adds to what is said before. Raises
    `ParplanError` with file and key for a malformed one.
    """
    tables = read_toml(path)
    if "default" not in tables:
        raise ParplanError(f"{path}: missing table [default]")
    special = [name for name in tables if _is_for(name, case)]
    table = _merged(tables, "default", case.group, *special)
    stack = build(Stack, table, f"{path}: {case.group}")
    return _as_the_case_says(stack, case)


def check_stacks(path: Path = STACKS) -> None:
    """Raise `ParplanError` for a malformed table, or one that names an unknown framework."""
    tables = read_toml(path)
    for group in tables:
        table = _merged(tables, "default", group.partition("/")[0], group)
        framework(build(Stack, table, f"{path}: {group}").framework)


def _is_for(name: str, case: Case) -> bool:
    """Whether a table `group/words` is for a case."""
    group, _, words = name.partition("/")
    said = (case.table, case.precision, case.model.name, case.hardware.accelerator, case.source)
    text = " ".join(map(str, said))
    return bool(words) and group == case.group and all(each in text for each in words.split(" + "))


def _merged(tables: Mapping[str, Any], *names: str) -> dict[str, Any]:
    """The tables of these names that are there, later ones over earlier ones."""
    found = {key: value for name in names for key, value in tables.get(name, {}).items()}
    software = [table for name in names if (table := tables.get(name, {}).get("software"))]
    if software and all(isinstance(table, dict) for table in software):
        found["software"] = {key: value for table in software for key, value in table.items()}
    return found


def _as_the_case_says(stack: Stack, case: Case) -> Stack:
    p = case.parallel
    changes: dict[str, object] = {}
    if p.attention_kernel:
        kernel = p.attention_kernel.lower()
        changes["attention"] = next(
            kind for words, kind in ATTENTION.items() if words in kernel or not words
        )
        changes["fused_norms"] = "fused rmsnorm" in kernel
    if p.overlap:
        text = p.overlap.lower()
        off = text.startswith("none")
        changes["overlap_tensor_parallel"] = "tp comm" in text and not off
        if off:
            changes["software"] = dataclasses.replace(
                stack.software, overlap_tensor_gradients=False
            )
        changes["overlap_gradient_reduction"] = not off and "grad-reduce" in text
        changes["overlap_parameter_gather"] = not off and "param-gather" in text
        if "ddp overlapped <=18b" in text:
            changes["overlap_gradient_reduction"] = (case.model.hidden or 0) <= 6144
        if text == "fsdp":
            changes["overlap_gradient_reduction"] = True
    if p.async_tp is not None:
        changes["overlap_tensor_parallel"] = p.async_tp
    if p.compile is False:
        changes |= {"fused_norms": False, "fused_elementwise": False, "framework": "eager"}
    if p.mp_mode == "PURE":
        changes["fp32_gradients"] = False
    return dataclasses.replace(stack, **changes)  # type: ignore[arg-type]
