"""Configurations written in Python, read from the syntax tree. Nothing is imported or executed.

A function that builds a configuration is followed through assignments, calls of other functions of
the file and branches whose test is known; what it calls elsewhere is kept by name with its
arguments.
"""

import ast
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from parplan.errors import ParplanError

MAX_STEPS, MAX_NESTED, MAX_SIZE, MAX_NUMBER = 20_000, 20, 10_000, 10**15

_BINARY: dict[type, Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
    ast.Div: operator.truediv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
}


_WITHOUT_EFFECT = ast.Pass | ast.Assert | ast.Import | ast.ImportFrom | ast.FunctionDef


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


@dataclass(slots=True)
class PythonFile:
    """A file's functions, constants and imported names."""

    where: str
    functions: dict[str, ast.FunctionDef] = field(default_factory=dict)
    constants: dict[str, Any] = field(default_factory=dict)
    imported: dict[str, str] = field(default_factory=dict)
    """Names and what they mean: `base` and `torchtitan.models.llama3.config_registry.llama3_8b`."""
    unread: list[str] = field(default_factory=list)
    """Statements that were not followed, by line."""
    steps: int = 0
    depth: int = 0


def read_python(text: str, where: str) -> PythonFile:
    """The definitions of a file; raises `ParplanError` for text that is not Python."""
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        line = f" in line {error.lineno}" if isinstance(error, SyntaxError) else ""
        raise ParplanError(f"{where}: not Python{line}") from None
    file = PythonFile(where=where)
    for node in tree.body:
        if isinstance(node, ast.FunctionDef):
            file.functions[node.name] = node
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            for alias in node.names:
                file.imported[alias.asname or alias.name] = f"{module}.{alias.name}"
        elif isinstance(node, ast.Import):
            for alias in node.names:
                file.imported[alias.asname or alias.name] = alias.name
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            _assign(node, file.constants, file)
    return file


def called(file: PythonFile, name: str, arguments: Mapping[str, Any] | None = None) -> Any:
    """What the function `name` of the file returns."""
    function = file.functions[name]
    file.depth += 1
    if file.depth > MAX_NESTED:
        raise ParplanError(f"{file.where}: functions within functions without end")
    scope: dict[str, Any] = {}
    names = [*function.args.posonlyargs, *function.args.args]
    for argument, default in zip(reversed(names), reversed(function.args.defaults), strict=False):
        scope[argument.arg] = value_of(default, {}, file)
    for keyword, usual in zip(function.args.kwonlyargs, function.args.kw_defaults, strict=True):
        if usual is not None:
            scope[keyword.arg] = value_of(usual, {}, file)
    scope |= arguments or {}
    found, _ = _run(function.body, scope, file)
    file.depth -= 1
    return found


def _run(body: list[ast.stmt], scope: dict[str, Any], file: PythonFile) -> tuple[Any, bool]:
    """The returned value, and whether there was one."""
    for node in body:
        file.steps += 1
        if file.steps > MAX_STEPS:
            raise ParplanError(f"{file.where}: more than {MAX_STEPS} steps")
        if isinstance(node, ast.Return):
            return (None if node.value is None else value_of(node.value, scope, file)), True
        if isinstance(node, ast.Assign | ast.AnnAssign):
            _assign(node, scope, file)
        elif isinstance(node, ast.If):
            truth = value_of(node.test, scope, file)
            if isinstance(truth, NotKnown | Elsewhere | Made):
                file.unread.append(f"if in line {node.lineno}")
                continue
            found, returned = _run(node.body if truth else node.orelse, scope, file)
            if returned:
                return found, True
        elif isinstance(node, ast.Expr):
            if not isinstance(node.value, ast.Constant):
                file.unread.append(f"{ast.unparse(node)[:60]} in line {node.lineno}")
        elif not isinstance(node, _WITHOUT_EFFECT):
            file.unread.append(f"{type(node).__name__.lower()} in line {node.lineno}")
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                file.imported[alias.asname or alias.name] = f"{node.module}.{alias.name}"
    return None, False


def _assign(node: ast.Assign | ast.AnnAssign, scope: dict[str, Any], file: PythonFile) -> None:
    if node.value is None:
        return
    value = value_of(node.value, scope, file)
    targets = node.targets if isinstance(node, ast.Assign) else [node.target]
    for target in targets:
        if isinstance(target, ast.Name):
            scope[target.id] = value
        elif isinstance(target, ast.Attribute):
            owner = value_of(target.value, scope, file, making=True)
            if isinstance(owner, Made):
                owner.fields[target.attr] = value
            else:
                file.unread.append(f"{ast.unparse(target)[:60]} in line {node.lineno}")
        else:
            file.unread.append(f"{ast.unparse(target)[:60]} in line {node.lineno}")


def value_of(
    node: ast.expr, scope: Mapping[str, Any], file: PythonFile, *, making: bool = False
) -> Any:
    """The value of an expression; `making`: attributes that are not there are made."""
    file.steps += 1
    if file.steps > MAX_STEPS:
        raise ParplanError(f"{file.where}: more than {MAX_STEPS} steps")
    match node:
        case ast.Constant(value=value):
            return value
        case ast.Name(id=name):
            if name in scope:
                return scope[name]
            if name in file.constants:
                return file.constants[name]
            return Elsewhere(file.imported.get(name, name))
        case ast.Attribute(value=inner, attr=name):
            return _attribute(value_of(inner, scope, file, making=making), name, making=making)
        case ast.List(elts=items) | ast.Tuple(elts=items):
            return [value_of(item, scope, file) for item in items[:MAX_SIZE]]
        case ast.Dict(keys=keys, values=values):
            pairs = [(k, v) for k, v in zip(keys, values, strict=True) if k is not None]
            return {str(value_of(k, scope, file)): value_of(v, scope, file) for k, v in pairs}
        case ast.Call():
            return _call(node, scope, file)
        case ast.IfExp(test=test, body=body, orelse=other):
            truth = value_of(test, scope, file)
            if isinstance(truth, NotKnown | Elsewhere | Made):
                return NotKnown(f"depends on {ast.unparse(test)[:60]}")
            return value_of(body if truth else other, scope, file)
        case ast.UnaryOp(op=op, operand=operand):
            return _unary(op, value_of(operand, scope, file))
        case ast.BinOp(left=left, op=op, right=right):
            return _binary(op, value_of(left, scope, file), value_of(right, scope, file), node)
        case ast.Compare(left=left, ops=[op], comparators=[right]):
            return _compared(op, value_of(left, scope, file), value_of(right, scope, file), node)
    return NotKnown(ast.unparse(node)[:60])


def _attribute(owner: Any, name: str, *, making: bool) -> Any:
    if isinstance(owner, Elsewhere):
        return Elsewhere(f"{owner.name}.{name}")
    if isinstance(owner, Made):
        if name not in owner.fields and making:
            owner.fields[name] = Made(name)
        if name in owner.fields:
            return owner.fields[name]
    return NotKnown(f".{name}")


def _call(node: ast.Call, scope: Mapping[str, Any], file: PythonFile) -> Any:
    function = value_of(node.func, scope, file)
    args = [value_of(argument, scope, file) for argument in node.args]
    named = {k.arg: value_of(k.value, scope, file) for k in node.keywords if k.arg is not None}
    if isinstance(node.func, ast.Name) and node.func.id in file.functions:
        inner = file.functions[node.func.id]
        places = [argument.arg for argument in inner.args.args]
        return called(file, node.func.id, dict(zip(places, args, strict=False)) | named)
    if isinstance(function, Elsewhere):
        if function.name in ("dataclasses.replace", "replace") and args:
            first = args[0]
            if isinstance(first, Made):
                return Made(first.name, list(first.args), {**first.fields, **named})
        if function.name in ("int", "float") and len(args) == 1:
            return args[0]
        return Made(function.name, args, named)
    return NotKnown(ast.unparse(node)[:60])


def _unary(op: ast.unaryop, value: Any) -> Any:
    if isinstance(op, ast.USub) and isinstance(value, int | float):
        return -value
    if isinstance(op, ast.Not) and not isinstance(value, NotKnown | Elsewhere | Made):
        return not value
    return NotKnown("not calculated")


def _binary(op: ast.operator, left: Any, right: Any, node: ast.expr) -> Any:
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


def _compared(op: ast.cmpop, left: Any, right: Any, node: ast.expr) -> Any:
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
            case ast.Lt():
                return left < right
            case ast.In():
                return left in right
    except TypeError:
        pass
    return NotKnown(ast.unparse(node)[:60])
