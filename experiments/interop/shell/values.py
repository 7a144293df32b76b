"""Values of a shell script: what is known of them, and why the rest is not."""

import ast
import operator
import re
from collections.abc import Callable
from dataclasses import dataclass, field

MARK = re.compile("\ue000([0-9]+)\ue001")
"""A part of a value that is not known, by its number."""

MAX_WORD = 20_000
MAX_NUMBER = 10**15

_BINARY: dict[type, Callable[[int, int], int]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Mod: lambda a, b: a - b * int(a / b),
    ast.Div: lambda a, b: int(a / b),
    ast.FloorDiv: lambda a, b: int(a / b),
}
_COMPARED: dict[type, Callable[[int, int], bool]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}


@dataclass(frozen=True, slots=True)
class Unknown:
    """Why a part of a value is not known."""

    why: str
    """As in `$MODEL is not set here; give --set MODEL=VALUE`."""
    variable: str = ""
    """The variable that is not set, where that is why."""
    alternatives: tuple[tuple[str, ...], ...] = ()
    """The words of each branch that may be taken."""


@dataclass(slots=True)
class Unknowns:
    """All parts that are not known, by number."""

    found: list[Unknown] = field(default_factory=list)
    numbers: dict[Unknown, int] = field(default_factory=dict)

    def mark(self, unknown: Unknown) -> str:
        """The text that stands for it."""
        number = self.numbers.setdefault(unknown, len(self.found))
        if number == len(self.found):
            self.found.append(unknown)
        return f"\ue000{number}\ue001"

    def within(self, text: str) -> list[Unknown]:
        """What is not known of `text`."""
        return [self.found[int(number)] for number in MARK.findall(text)]

    def shown(self, text: str) -> str:
        """The text as a person reads it."""
        return MARK.sub(lambda match: f"${self.found[int(match[1])].variable or '(...)'}", text)


def calculated(text: str) -> int:
    """The value of integer arithmetic; raises `ValueError` for anything else."""
    text = text.replace("&&", " and ").replace("||", " or ")
    text = re.sub(r"!(?!=)", " not ", text).strip()
    if len(text) > 1000 or not text:
        raise ValueError(text)
    try:
        return _number(ast.parse(text, mode="eval").body)
    except (SyntaxError, ZeroDivisionError, OverflowError, RecursionError, MemoryError):
        raise ValueError(text) from None


def _number(node: ast.expr) -> int:
    value: int
    match node:
        case ast.Constant(value=int() as value):
            pass
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _BINARY:
            value = _BINARY[type(op)](_number(left), _number(right))
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            value = -_number(operand)
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            value = int(not _number(operand))
        case ast.Compare(left=left, ops=[op], comparators=[right]):
            if type(op) not in _COMPARED:
                raise ValueError(node)
            value = int(_COMPARED[type(op)](_number(left), _number(right)))
        case ast.BoolOp(op=op, values=values):
            parts = [bool(_number(part)) for part in values]
            value = int(all(parts) if isinstance(op, ast.And) else any(parts))
        case _:
            raise ValueError(node)
    if abs(value) > MAX_NUMBER:
        raise ValueError(node)
    return value
