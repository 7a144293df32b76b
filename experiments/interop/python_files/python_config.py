"""Configurations written in Python, read from the syntax tree. Nothing is imported or executed.

A function that builds a configuration is followed through assignments, calls of other functions of
the file and branches whose test is known; what it calls elsewhere is kept by name with its
arguments.
"""

import ast
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from parplan._strict import read_text
from parplan.errors import ParplanError
from parplan.experiments.interop.beside import module_beside
from parplan.experiments.interop.python_files.python_values import (
    MAX_SIZE,
    Elsewhere,
    Made,
    NotKnown,
    binary,
    compared,
    unary,
)

MAX_STEPS, MAX_NESTED, MAX_FILES = 20_000, 20, 30


CHOICE = "CONFIG"
"""The variable that names a configuration of a file with several."""

_MESSAGES = ("print", "logging.", "logger.", "warnings.", "log.")
_WITHOUT_EFFECT = ast.Pass | ast.Assert | ast.Import | ast.ImportFrom | ast.FunctionDef


@dataclass(slots=True)
class PythonFile:
    """A file's functions, constants and imported names."""

    where: str
    functions: dict[str, ast.FunctionDef] = field(default_factory=dict)
    constants: dict[str, Any] = field(default_factory=dict)
    package: str = ""
    """The package that it is in, where that is known."""
    followed: str = ""
    """Pattern of what functions of other files return for which they are followed."""
    others: "dict[str, PythonFile | None]" = field(default_factory=dict)
    """Files of the same package that were asked for, by module."""
    imported: dict[str, str] = field(default_factory=dict)
    """Names and what they mean: `base` and `torchtitan.models.llama3.config_registry.llama3_8b`."""
    unread: list[str] = field(default_factory=list)
    """Statements that were not followed, by line."""
    steps: int = 0
    depth: int = 0


def read_python(text: str, where: str, package: str = "", followed: str = "") -> PythonFile:
    """The definitions of a file; raises `ParplanError` for text that is not Python.

    followed: pattern of return types for which functions of the package's other files are read.
    """
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        line = f" in line {error.lineno}" if isinstance(error, SyntaxError) else ""
        raise ParplanError(f"{where}: not Python{line}") from None
    file = PythonFile(where=where, package=package, followed=followed)
    for node in tree.body:
        if isinstance(node, ast.FunctionDef):
            file.functions[node.name] = node
        elif isinstance(node, ast.ImportFrom):
            module = _module(node, file)
            for alias in node.names:
                file.imported[alias.asname or alias.name] = f"{module}.{alias.name}"
        elif isinstance(node, ast.Import):
            for alias in node.names:
                file.imported[alias.asname or alias.name] = alias.name
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            _assign(node, file.constants, file)
    return file


def _module(node: ast.ImportFrom, file: PythonFile) -> str:
    """The module of `from ... import`, with its package where that is known."""
    parts = file.package.split(".") if file.package else []
    if not node.level or len(parts) < node.level:
        return "." * node.level + (node.module or "")
    return ".".join([*parts[: len(parts) - node.level + 1], *filter(None, [node.module])])


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
    own = {argument.arg for argument in (*names, *function.args.kwonlyargs)}
    beside = {name: value for name, value in (arguments or {}).items() if name not in own}
    scope |= {name: value for name, value in (arguments or {}).items() if name in own}
    if function.args.kwarg is not None:
        scope[function.args.kwarg.arg] = beside
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
        elif isinstance(node, ast.Try):
            found, returned = _run(node.body, scope, file)
            if returned:
                return found, True
        elif isinstance(node, ast.Expr):
            if not _followed(node.value, scope, file):
                file.unread.append(f"{ast.unparse(node)[:60]} in line {node.lineno}")
        elif not isinstance(node, _WITHOUT_EFFECT):
            file.unread.append(f"{type(node).__name__.lower()} in line {node.lineno}")
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                file.imported[alias.asname or alias.name] = f"{_module(node, file)}.{alias.name}"
    return None, False


def _followed(node: ast.expr, scope: dict[str, Any], file: PythonFile) -> bool:
    """Whether a statement is followed: a call of the file's functions, `append`, a message."""
    if not isinstance(node, ast.Call):
        return isinstance(node, ast.Constant)
    if isinstance(node.func, ast.Name) and node.func.id in file.functions:
        _call(node, scope, file)
        return True
    if isinstance(node.func, ast.Attribute) and node.func.attr in (
        "append",
        "extend",
        "setdefault",
    ):
        owner = value_of(node.func.value, scope, file)
        args = [value_of(argument, scope, file) for argument in node.args]
        if isinstance(owner, list) and len(args) == 1 and len(owner) < MAX_SIZE:
            owner.extend(args[0] if isinstance(args[0], list) else [args[0]])
            return True
    name = value_of(node.func, scope, file)
    return isinstance(name, Elsewhere) and name.name.startswith(_MESSAGES)


def _assign(node: ast.Assign | ast.AnnAssign, scope: dict[str, Any], file: PythonFile) -> None:
    if node.value is None:
        return
    value = value_of(node.value, scope, file)
    targets = node.targets if isinstance(node, ast.Assign) else [node.target]
    for target in targets:
        _set(target, value, scope, file)


def _set(target: ast.expr, value: Any, scope: dict[str, Any], file: PythonFile) -> None:
    """Bind a value to a name, an attribute, or in parts to several."""
    if isinstance(target, ast.Name):
        scope[target.id] = value
        return
    if isinstance(target, ast.Attribute):
        owner = value_of(target.value, scope, file, making=True)
        if isinstance(owner, Made):
            owner.fields[target.attr] = value
            return
    if isinstance(target, ast.Tuple) and isinstance(value, Made):
        for place, part in enumerate(target.elts):
            _set(part, Made(value.name, [place, *value.args], dict(value.fields)), scope, file)
        return
    file.unread.append(f"{ast.unparse(target)[:60]} in line {target.lineno}")


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
        case ast.Dict():
            return _table(node, scope, file)
        case ast.BoolOp(op=op, values=parts):
            return _joined(op, parts, scope, file)
        case ast.Subscript():
            found = _item(value_of(node.value, scope, file), value_of(node.slice, scope, file))
            return NotKnown(ast.unparse(node)[:60]) if isinstance(found, NotKnown) else found
        case ast.Call():
            return _call(node, scope, file)
        case ast.IfExp(test=test, body=body, orelse=other):
            truth = value_of(test, scope, file)
            if isinstance(truth, NotKnown | Elsewhere | Made):
                return NotKnown(f"depends on {ast.unparse(test)[:60]}")
            return value_of(body if truth else other, scope, file)
        case ast.UnaryOp(op=op, operand=operand):
            return unary(op, value_of(operand, scope, file))
        case ast.BinOp(left=left, op=op, right=right):
            return binary(op, value_of(left, scope, file), value_of(right, scope, file), node)
        case ast.Compare(left=left, ops=[op], comparators=[right]):
            return compared(op, value_of(left, scope, file), value_of(right, scope, file), node)
    return NotKnown(ast.unparse(node)[:60])


def _table(node: ast.Dict, scope: Mapping[str, Any], file: PythonFile) -> dict[str, Any]:
    """A table, with those in it that are spread out by `**`."""
    table: dict[str, Any] = {}
    for key, written in zip(node.keys, node.values, strict=True):
        value = value_of(written, scope, file)
        if key is not None:
            table[str(value_of(key, scope, file))] = value
        elif isinstance(value, dict) and len(table) + len(value) <= MAX_SIZE:
            table |= value
    return table


def _item(owner: Any, place: Any) -> Any:
    if isinstance(owner, dict) and isinstance(place, str) and place in owner:
        return owner[place]
    if isinstance(owner, list) and isinstance(place, int) and -len(owner) <= place < len(owner):
        return owner[place]
    return NotKnown(f"[{place!r:.40}]")


def _joined(
    op: ast.boolop, parts: list[ast.expr], scope: Mapping[str, Any], file: PythonFile
) -> Any:
    """`a or b`, `a and b`: the first part that decides."""
    value: Any = None
    for part in parts:
        value = value_of(part, scope, file)
        if isinstance(value, NotKnown | Elsewhere):
            return NotKnown(ast.unparse(part)[:60])
        if (bool(value) or isinstance(value, Made)) == isinstance(op, ast.Or):
            return value
    return value


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
    named: dict[str, Any] = {}
    for keyword in node.keywords:
        value = value_of(keyword.value, scope, file)
        if keyword.arg is not None:
            named[keyword.arg] = value
        elif isinstance(value, dict):
            named |= value
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
        found = elsewhere(function.name, args, named, file)
        if found is not None:
            return found
        return Made(function.name, args, named)
    if isinstance(node.func, ast.Attribute):
        return _method(value_of(node.func.value, scope, file), node, args, named)
    return NotKnown(ast.unparse(node)[:60])


def elsewhere(name: str, args: list[Any], named: dict[str, Any], file: PythonFile) -> Any:
    """What a function of another file of the package makes; None where it is not followed whole."""
    module, _, function = name.rpartition(".")
    followed = file.followed and module and not function.startswith("_")
    other = _other(module, file) if followed else None
    if other is None:
        return None
    node = other.functions.get(function)
    if node is None:
        moved = other.imported.get(function)
        return None if moved in (None, name) else elsewhere(str(moved), args, named, other)
    returned = ast.unparse(node.returns) if node.returns is not None else ""
    if not re.search(file.followed, returned):
        return None
    places = [argument.arg for argument in node.args.args]
    before = len(other.unread)
    found = called(other, function, dict(zip(places, args, strict=False)) | named)
    whole = isinstance(found, Made) and len(other.unread) == before
    del other.unread[before:]
    return found if whole else None


def _other(module: str, file: PythonFile) -> PythonFile | None:
    """Another file of the package, read once; None where it is not there or cannot be read."""
    if module not in file.others:
        file.others[module] = None
        path = module_beside(file.where, module) if len(file.others) <= MAX_FILES else None
        if path is not None:
            package = module if path.name == "__init__.py" else module.rpartition(".")[0]
            try:
                other = read_python(read_text(path), str(path), package, file.followed)
            except ParplanError:
                return None
            other.others = file.others
            file.others[module] = other
    return file.others[module]


def _method(owner: Any, node: ast.Call, args: list[Any], named: dict[str, Any]) -> Any:
    """A method of what a call made, of a text or of a table."""
    name = node.func.attr if isinstance(node.func, ast.Attribute) else ""
    if isinstance(owner, Made):
        return Made(f"{owner.name}.{name}", [*owner.args, *args], {**owner.fields, **named})
    if isinstance(owner, str) and name in ("lower", "upper", "strip") and not args:
        return getattr(owner, name)()
    if isinstance(owner, dict) and name in ("get", "pop") and args and isinstance(args[0], str):
        usual = args[1] if len(args) > 1 else None
        return owner.pop(args[0], usual) if name == "pop" else owner.get(args[0], usual)
    return NotKnown(ast.unparse(node)[:60])


def chosen_function(
    file: PythonFile, names: Sequence[str], asked: str | None, what: tuple[str, str]
) -> str:
    """The one function that makes the configuration, or which of `names` the user chose.

    asked: the value of `--set CONFIG=...`. what: what the file is not without any of them, and what
    several of them are called. Raises `ParplanError` where none or no other one can be taken.
    """
    missing, several = what
    if not names:
        raise ParplanError(f"{file.where}: not {missing}")
    if asked is not None:
        if asked not in names:
            raise ParplanError(
                f"{file.where}: --set {CHOICE}={asked}: not one of {', '.join(names[:12])}"
            )
        return asked
    if len(names) > 1:
        raise ParplanError(
            f"{file.where}: {len(names)} {several}; choose one by --set {CHOICE}=NAME: "
            f"{', '.join(names[:12])}{' ...' if len(names) > 12 else ''}"
        )
    return names[0]
