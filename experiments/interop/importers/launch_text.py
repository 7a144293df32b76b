"""The flags of a command line, or of a shell script that makes one. Nothing is run."""

import ast
import operator
import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from parplan.errors import ParplanError

_ARITHMETIC = re.compile(r"\$\(\(([^()]*)\)\)")
_ASSIGNMENT = re.compile(r"([A-Za-z_]\w*)=(.*)", re.DOTALL)
_VARIABLE = re.compile(r"\$\{([A-Za-z_]\w*)(?::?-([^}]*))?\}|\$([A-Za-z_]\w*)")
_OPERATORS = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.floordiv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}
MAX_DEPTH = 20
MAX_WORD = 10_000


@dataclass(slots=True, kw_only=True)
class Flags:
    """The flags of a launch, and the words after each up to the next one."""

    where: str
    words: dict[str, list[str]] = field(default_factory=dict)
    variables: dict[str, str] = field(default_factory=dict)
    used: set[str] = field(default_factory=set)

    def has(self, *names: str) -> bool:
        """Whether any of these flags is there."""
        self.used.update(names)
        return any(name in self.words for name in names)

    def text(self, *names: str) -> str | None:
        """The value of the first of these flags that is there.

        Raises `ParplanError` for a flag without a value, and for a variable that is not set.
        """
        self.used.update(names)
        for name in names:
            if name in self.words:
                if not self.words[name]:
                    raise ParplanError(f"{self.where}: {name}: has no value")
                return self._expanded(name, self.words[name][0])
        return None

    def number(self, *names: str) -> int | None:
        """The same as a whole number."""
        found = self.text(*names)
        if found is None:
            return None
        try:
            return int(found)
        except ValueError:
            raise ParplanError(
                f"{self.where}: {names[0]}: expected a whole number, got {found!r}"
            ) from None

    def texts(self, name: str) -> list[str]:
        """All words after a flag."""
        self.used.add(name)
        return [self._expanded(name, word) for word in self.words.get(name, [])]

    def others(self) -> list[str]:
        """The flags that nobody asked for."""
        return [name for name in self.words if name not in self.used]

    def _expanded(self, name: str, word: str) -> str:
        for _ in range(MAX_DEPTH):
            replaced = _VARIABLE.sub(lambda match: self._value(name, match), word)
            if replaced == word:
                return _calculated(word, f"{self.where}: {name}")
            word = replaced
            if len(word) > MAX_WORD:
                break
        raise ParplanError(
            f"{self.where}: {name}: variables that refer to each other: {word[:80]!r}"
        )

    def _value(self, name: str, match: re.Match[str]) -> str:
        variable, default = match[1] or match[3], match[2]
        if variable in self.variables:
            return self.variables[variable]
        if default is not None:
            return default
        raise ParplanError(
            f"{self.where}: {name}: ${variable} is not set here; give --variable {variable}=VALUE"
        )


def read_flags(text: str, where: str, variables: Mapping[str, str]) -> Flags:
    """The flags of `text`; `variables` go before those that it sets itself.

    Raises `ParplanError` for quotes that do not match.
    """
    flags = Flags(where=where)
    current: list[str] | None = None
    for word in _words(text, where):
        assignment = _ASSIGNMENT.fullmatch(word)
        if word.startswith("--") and len(word) > 2:
            name, given, value = word.partition("=")
            current = flags.words[name.replace("_", "-")] = [value] if given else []
        elif assignment and not word.startswith("-"):
            flags.variables[assignment[1]] = assignment[2]
            current = None
        elif word in (")", "(", "\\") or re.fullmatch(r"\$\{\w+\[[@*]\]\}", word):
            current = None
        elif current is not None:
            current.append(word)
    flags.variables |= variables
    return flags


def _words(text: str, where: str) -> Iterator[str]:
    """The words of a script, those of `ARGS="--a 1 --b 2"` and `ARGS=(--a 1)` each by itself."""
    text = re.sub(r"\\\s*\n", " ", text)
    text = _ARITHMETIC.sub(_with_dollars, text)
    text = re.sub(r"=\(", "= ", text)
    try:
        words = shlex.split(text, comments=True)
    except ValueError as error:
        raise ParplanError(f"{where}: not a command line: {error}") from None
    for word in words:
        word = word.removesuffix(")") if word.count(")") > word.count("(") else word
        assignment = _ASSIGNMENT.fullmatch(word)
        if assignment and "--" in assignment[2] and not word.startswith("-"):
            yield from _words(assignment[2], where)
        elif word:
            yield word


def _with_dollars(match: re.Match[str]) -> str:
    """`$(( A * 2 ))` as `$((${A}*2))`: one word, in which all variables look alike."""
    inside = re.sub(r"(?<![\w${])([A-Za-z_]\w*)", r"${\1}", "".join(match[1].split()))
    return f"$(({inside}))"


def _calculated(word: str, where: str) -> str:
    """`$((8*2))` as its value; anything else as it is."""
    match = _ARITHMETIC.fullmatch(word)
    if match is None:
        return word
    try:
        return str(_number(ast.parse(match[1], mode="eval").body))
    except (SyntaxError, ValueError, ZeroDivisionError):
        raise ParplanError(f"{where}: cannot be calculated: {word!r}") from None


def _number(node: ast.expr) -> int:
    if isinstance(node, ast.Constant) and isinstance(node.value, int):
        return node.value
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        return int(_OPERATORS[type(node.op)](_number(node.left), _number(node.right)))
    raise ValueError(node)
