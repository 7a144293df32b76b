"""What a source's software does that its cases do not say."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from parplan.experiments.cases.read import Case
from parplan.hardware.errors import ParplanError
from parplan.hardware.strict import build, read_toml
from parplan.sim.framework import framework
from parplan.sim.workload import Attention

STACKS = Path(__file__).parent / "stacks.toml"


@dataclass(frozen=True, slots=True, kw_only=True)
class Stack:
    """Kernels and overlap of a training stack."""

    attention: Attention
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
    framework: str
    """A table of `sim/frameworks.toml`."""
    source: str


def stack_of(case: Case, path: Path = STACKS) -> Stack:
    """The stack of the case's group, or the default one, with what the case itself says.

    Raises `ParplanError` with file and key for a malformed table.
    """
    tables = read_toml(path)
    if "default" not in tables:
        raise ParplanError(f"{path}: missing table [default]")
    table = {**tables["default"], **tables.get(case.group, {})}
    stack = build(Stack, table, f"{path}: {case.group}")
    return _as_the_case_says(stack, case)


def check_stacks(path: Path = STACKS) -> None:
    """Raise `ParplanError` for a malformed table, or one that names an unknown framework."""
    tables = read_toml(path)
    for group in tables:
        table = {**tables.get("default", {}), **tables[group]}
        framework(build(Stack, table, f"{path}: {group}").framework)


def _as_the_case_says(stack: Stack, case: Case) -> Stack:
    p = case.parallel
    changes: dict[str, object] = {}
    if p.attention_kernel:
        kernel = p.attention_kernel.lower()
        changes["attention"] = (
            "flash" if "flash" in kernel else "unfused" if "fused softmax" in kernel else "eager"
        )
        changes["fused_norms"] = "fused rmsnorm" in kernel
    if p.overlap:
        text = p.overlap.lower()
        off = text.startswith("none")
        changes["overlap_gradient_reduction"] = not off and "grad-reduce" in text
        changes["overlap_parameter_gather"] = not off and "param-gather" in text
        if "ddp overlapped <=18b" in text:
            changes["overlap_gradient_reduction"] = (case.model.hidden or 0) <= 6144
        if text == "fsdp":
            changes["overlap_gradient_reduction"] = True
    return dataclasses.replace(stack, **changes)  # type: ignore[arg-type]
