"""Kernels bound by memory as torch runs them, by what they compute, ready to be repeated.

A kernel of `num_bytes` gets as many values as its passes over them move that many bytes, counted as
the simulator counts them (`parplan.sim.layers`). Where a family is a chain of kernels in eager
torch, repetitions go through the chain, each kernel with values for `num_bytes`.
"""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch.nn import functional

from parplan.backend.calibration.operands import Operands, Run
from parplan.hardware.kernels.kernel import Direction, Family, MemoryBound, Provider

Call = Callable[[], object]
"""One kernel on operands that it holds."""

WIDTH = {"cpu": 1024, "cuda": 4096}
"""Values of a row: the features of a token, or the words of a vocabulary."""

EPSILON = 1e-5


def memory_bound_run(kernel: MemoryBound, operands: Operands) -> Run:
    """Return a function that repeats `kernel`, in turn on several operands."""
    makers = KERNELS[kernel.family, kernel.provider, kernel.direction]
    calls = [
        call for passes, make in makers for call in make(_Rows(kernel.num_bytes, passes, operands))
    ]

    def run(times: int) -> None:
        for i in range(times):
            calls[i % len(calls)]()

    return run


class _Rows:
    """Rows of values, of which `passes` reads and writes of each move so many bytes."""

    def __init__(self, num_bytes: float, passes: float, operands: Operands) -> None:
        self.operands, self.width = operands, WIDTH[operands.device.type]
        self.dtype = torch.float32 if operands.device.type == "cpu" else torch.bfloat16
        values = num_bytes / passes / self.dtype.itemsize
        self.count = max(1, round(values / self.width))

    def sets(self, number: int = 1, dtype: torch.dtype | None = None) -> list[list[torch.Tensor]]:
        """Sets of `number` operands, of which repetitions take a few."""
        shapes = [(self.count, self.width)] * number
        return self.operands.sets(shapes, dtype or self.dtype, "in")

    def one_row(self) -> torch.Tensor:
        """The weights of a norm, or the angles of a position."""
        return torch.ones(self.width, dtype=self.dtype, device=self.operands.device)

    def indices(self) -> torch.Tensor:
        """As many rows of a table, in any order."""
        return torch.randperm(self.count, device=self.operands.device)


Maker = Callable[[_Rows], Iterator[Call]]


def _forward(of: Callable[..., torch.Tensor], number: int = 1) -> Maker:
    def make(rows: _Rows) -> Iterator[Call]:
        for operands in rows.sets(number):
            yield lambda operands=operands: of(*operands)  # type: ignore[misc]

    return make


def _with_row(of: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> Maker:
    def make(rows: _Rows) -> Iterator[Call]:
        row = rows.one_row()
        for (values,) in rows.sets():
            yield lambda values=values: of(values, row)  # type: ignore[misc]

    return make


def _backward(of: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], *, weights: bool) -> Maker:
    """Through torch's autograd, of the values and where they count of the weights."""

    def make(rows: _Rows) -> Iterator[Call]:
        row = rows.one_row().requires_grad_(weights)
        for (values,) in rows.sets()[:2]:
            wanted = [values.detach().requires_grad_(), *([row] if weights else [])]
            output = of(wanted[0], row)
            gradient = torch.ones_like(output)
            yield lambda o=output, w=wanted, g=gradient: torch.autograd.grad(  # type: ignore[misc]
                o, w, g, retain_graph=True
            )

    return make


def _norm(values: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    return functional.layer_norm(values, values.shape[-1:], weights, None, EPSILON)


def _look_up(rows: _Rows) -> Iterator[Call]:
    indices = rows.indices()
    for (table,) in rows.sets():
        yield lambda table=table: functional.embedding(indices, table)  # type: ignore[misc]


def _scatter(rows: _Rows) -> Iterator[Call]:
    indices = rows.indices()
    for (gradient,) in rows.sets():
        yield lambda gradient=gradient: torch.ops.aten.embedding_dense_backward(  # type: ignore[misc]
            gradient, indices, rows.count, -1, False
        )


def _join_halves(values: torch.Tensor) -> torch.Tensor:
    half = values.shape[-1] // 2
    return torch.cat((values[..., half:], values[..., :half]), dim=-1)


Chain = Sequence[tuple[float, Maker]]
"""Kernels, each with the passes over its values."""

_PRODUCT = (2.0, _with_row(torch.mul))
_PRODUCT_OF_TWO = (3.0, _forward(torch.mul, 2))
_SUM = (3.0, _forward(torch.add, 2))
_SQUARE_AND_MEAN: Chain = (
    (2.0, _forward(torch.square)),
    (1.0, _forward(lambda values: values.mean(dim=-1))),
    _PRODUCT,
)
_ROTARY: Chain = (_PRODUCT, (2.0, _forward(torch.neg)), (2.0, _forward(_join_halves)), _SUM)

KERNELS: dict[tuple[Family, Provider, Direction], Chain] = {
    ("norm", "torch", "forward"): ((2.0, _with_row(_norm)),),
    ("norm", "torch", "backward"): ((3.0, _backward(_norm, weights=True)),),
    ("norm", "eager", "forward"): _SQUARE_AND_MEAN,
    ("norm", "eager", "backward"): (_PRODUCT, _PRODUCT_OF_TWO, _SUM),
    ("activation", "eager", "forward"): ((2.0, _forward(functional.silu)), _PRODUCT_OF_TWO),
    ("activation", "eager", "backward"): (
        _PRODUCT_OF_TWO,
        (3.0, _forward(torch.ops.aten.silu_backward, 2)),
    ),
    ("rotary", "eager", "forward"): _ROTARY,
    ("rotary", "eager", "backward"): _ROTARY,
    ("softmax", "torch", "forward"): ((2.0, _forward(lambda v: torch.softmax(v, dim=-1))),),
    ("softmax", "torch", "backward"): (
        (3.0, _backward(lambda v, _: torch.softmax(v, dim=-1), weights=False)),
    ),
    ("loss", "eager", "forward"): ((2.0, _forward(lambda v: torch.log_softmax(v, dim=-1))),),
    ("loss", "eager", "backward"): (
        (3.0, _backward(lambda v, _: torch.log_softmax(v, dim=-1), weights=False)),
    ),
    ("embedding", "torch", "forward"): ((2.0, _look_up),),
    # Rows of zeros; what comes is read, and so is what it is added to, and written.
    ("embedding", "torch", "backward"): ((4.0, _scatter),),
}
