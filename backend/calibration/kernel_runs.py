"""Kernels as torch runs them, ready to be repeated for a measurement."""

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn import functional

from parplan.backend.calibration.memory_runs import memory_bound_run
from parplan.backend.calibration.operands import Operands, Run
from parplan.hardware.kernels.kernel import Attention, Gemm, Kernel, MemoryBound

DTYPES = {
    "fp32": torch.float32,
    "tf32": torch.float32,
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
    "fp8": torch.float8_e4m3fn,
}


def kernel_run(kernel: Kernel, operands: Operands) -> Run:
    """Return a function that repeats `kernel`.

    Raises `RuntimeError` or the like where torch or the device can't.
    """
    if isinstance(kernel, Gemm):
        run = _scaled_gemm(kernel, operands) if kernel.dtype == "fp8" else _gemm(kernel, operands)
    elif isinstance(kernel, Attention):
        forward = kernel.direction == "forward"
        run = _attention(kernel, operands) if forward else _attention_backward(kernel, operands)
    elif kernel.family == "copy":
        run = _copy_and_add(kernel, operands)
    else:
        run = memory_bound_run(kernel, operands)
    return run


def _gemm(kernel: Gemm, operands: Operands) -> Run:
    dtype = DTYPES[kernel.dtype]
    first, second = _stored(kernel)
    inputs = [_as_multiplied(kernel, pair) for pair in operands.sets((first, second), dtype, "in")]
    shape = (kernel.batch, kernel.m, kernel.n)
    outputs = operands.sets((shape if kernel.batch > 1 else shape[1:],), dtype, "out")
    multiply = torch.bmm if kernel.batch > 1 else torch.mm
    fp32_precision = "tf32" if kernel.dtype == "tf32" else "ieee"

    def run(times: int) -> None:
        torch.backends.cuda.matmul.fp32_precision = fp32_precision
        for i in range(times):
            a, b = inputs[i % len(inputs)]
            (out,) = outputs[i % len(outputs)]
            if kernel.accumulate:
                out.addmm_(a, b)
            else:
                multiply(a, b, out=out)

    return run


def _stored(kernel: Gemm) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The shapes of the two operands as they lie in memory, row by row."""
    first = (kernel.k, kernel.m) if kernel.transposed == "NT" else (kernel.m, kernel.k)
    second = (kernel.n, kernel.k) if kernel.transposed == "TN" else (kernel.k, kernel.n)
    batch = (kernel.batch,) if kernel.batch > 1 else ()
    return (*batch, *first), (*batch, *second)


def _as_multiplied(kernel: Gemm, pair: Sequence[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Views m x k and k x n."""
    first, second = pair
    if kernel.transposed == "NT":
        first = first.transpose(-1, -2)
    if kernel.transposed == "TN":
        second = second.transpose(-1, -2)
    return first, second


def _scaled_gemm(kernel: Gemm, operands: Operands) -> Run:
    dtype = DTYPES[kernel.dtype]
    inputs = [_as_multiplied(kernel, pair) for pair in operands.sets(_stored(kernel), dtype, "in")]
    one = torch.ones((), device=operands.device)

    def run(times: int) -> None:
        for i in range(times):
            a, b = inputs[i % len(inputs)]
            torch._scaled_mm(a, b, scale_a=one, scale_b=one, out_dtype=torch.bfloat16)

    return run


def _attention_inputs(kernel: Attention, operands: Operands) -> list[list[torch.Tensor]]:
    """Query, key, value: (batch, heads, length, head size), as views of (batch, length, ...)."""
    queries = (kernel.batch, kernel.query_len, kernel.heads, kernel.head_size)
    keys = (kernel.batch, kernel.key_len, kernel.kv_heads, kernel.head_size)
    sets = operands.sets((queries, keys, keys), DTYPES[kernel.dtype], "in")
    return [[t.transpose(1, 2).detach().requires_grad_() for t in tensors] for tensors in sets[:2]]


def _attend(kernel: Attention, inputs: Sequence[torch.Tensor]) -> torch.Tensor:
    grouped = kernel.heads != kernel.kv_heads
    query, key, value = inputs
    return functional.scaled_dot_product_attention(
        query, key, value, is_causal=kernel.causal, enable_gqa=grouped
    )


def _attention(kernel: Attention, operands: Operands) -> Run:
    sets = _attention_inputs(kernel, operands)

    def run(times: int) -> None:
        for i in range(times):
            _attend(kernel, sets[i % len(sets)])

    return run


def _attention_backward(kernel: Attention, operands: Operands) -> Run:
    sets = _attention_inputs(kernel, operands)
    outputs = [_attend(kernel, inputs) for inputs in sets]
    gradients = [torch.ones_like(output) for output in outputs]

    def run(times: int) -> None:
        for i in range(times):
            j = i % len(sets)
            torch.autograd.grad(outputs[j], sets[j], gradients[j], retain_graph=True)

    return run


def _copy_and_add(kernel: MemoryBound, operands: Operands) -> Run:
    """A copy and a sum in turn, each reading and writing `num_bytes` in all."""
    dtype = torch.float32 if operands.device.type == "cpu" else torch.bfloat16
    copied, added = (max(1, int(kernel.num_bytes / n / dtype.itemsize)) for n in (2, 3))
    inputs = operands.sets(((max(copied, 2 * added),),), dtype, "in")
    outputs = operands.sets(((copied,),), dtype, "out")

    def run(times: int) -> None:
        for i in range(times):
            (values,), (out,) = inputs[i % len(inputs)], outputs[i % len(outputs)]
            if i % 2:
                torch.add(values[:added], values[added : 2 * added], out=out[:added])
            else:
                out.copy_(values[:copied])

    return run


def optimizer_run(num_parameters: int, device: torch.device) -> Run:
    """AdamW with its defaults, over matrices of together about that many parameters."""
    parameters: list[Any] = []
    left = num_parameters
    while left > 0:
        size = min(left, 2**22)
        parameter = torch.nn.Parameter(torch.randn(size, device=device))
        # Not zeros, on which AdamW takes twice as long.
        parameter.grad = torch.randn_like(parameter)
        parameters.append(parameter)
        left -= size
    optimizer = torch.optim.AdamW(parameters)

    def run(times: int) -> None:
        for _ in range(times):
            optimizer.step()

    return run
