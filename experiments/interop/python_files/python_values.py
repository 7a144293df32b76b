"""Values of configurations in Python, and what operators make of them."""

import ast
import operator
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

MAX_SIZE, MAX_NUMBER = 10_000, 10**15

_BINARY: dict[type, Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
    ast.Div: operator.truediv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
}


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """A name that the file does not define, such as `torch.bfloat16`."""

    name: str


@dataclass(frozen=True, slots=True)
class NotKnown:
    """A value that is not known, and why."""

    why: str

    def __repr__(self) -> str:
        return f"<{self.why}>"


@dataclass(slots=True)
class Made:
    """What a call of something defined elsewhere makes: `TrainingConfig(seq_len=8192)`."""

    name: str
    args: list[Any] = field(default_factory=list)
    fields: dict[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"{self.name}(...)"

    @property
    def kind(self) -> str:
        """The name without modules, and without `.Config`."""
        return self.name.removesuffix(".Config").rpartition(".")[2]


def unary(op: ast.unaryop, value: Any) -> Any:
    """The value of `-a` or `not a`."""
    if isinstance(op, ast.USub) and isinstance(value, int | float):
        return -value
    if isinstance(op, ast.Not) and not isinstance(value, NotKnown | Elsewhere | Made):
        return not value
    return NotKnown("not calculated")


def binary(op: ast.operator, left: Any, right: Any, node: ast.expr) -> Any:
    """The value of arithmetic between small numbers, or of a list behind another."""
    kinds = int | float
    if type(op) in _BINARY and isinstance(left, kinds) and isinstance(right, kinds):
        small = not isinstance(op, ast.Pow) or (abs(left) <= MAX_SIZE and 0 <= right <= 40)
        try:
            found = _BINARY[type(op)](left, right) if small else MAX_NUMBER + 1
        except (ZeroDivisionError, OverflowError):
            found = MAX_NUMBER + 1
        if abs(found) <= MAX_NUMBER:
            return found
    if isinstance(op, ast.Add) and isinstance(left, list) and isinstance(right, list):
        return [*left, *right][:MAX_SIZE]
    return NotKnown(ast.unparse(node)[:60])


def compared(op: ast.cmpop, left: Any, right: Any, node: ast.expr) -> Any:
    """Whether a comparison holds, where both values are known."""
    if any(isinstance(value, NotKnown | Elsewhere | Made) for value in (left, right)):
        return NotKnown(ast.unparse(node)[:60])
    try:
        match op:
            case ast.Eq():
                return left == right
            case ast.NotEq():
                return left != right
            case ast.Is():
                return left is right
            case ast.IsNot():
                return left is not right
            case ast.Gt():
                return left > right
            case ast.GtE():
                return left >= right
            case ast.Lt():
                return left < right
            case ast.LtE():
                return left <= right
            case ast.In():
                return left in right
            case ast.NotIn():
                return left not in right
    except TypeError:
        pass
    return NotKnown(ast.unparse(node)[:60])
