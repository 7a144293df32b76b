"""Expansion of the words of a shell script, from its syntax tree. Nothing is executed."""

import fnmatch
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from tree_sitter import Node

from parplan.experiments.interop.shell.values import (
    MARK,
    MAX_WORD,
    Unknown,
    Unknowns,
    calculated,
)

Piece = tuple[str, bool]
"""A part of a word, and whether it is split at blanks."""

EXPANSIONS = {
    "simple_expansion",
    "expansion",
    "command_substitution",
    "arithmetic_expansion",
    "process_substitution",
}

_NAME = re.compile(r"[A-Za-z_]\w*")
_PARAMETER = re.compile(r"\$\{([!#]?)([A-Za-z_]\w*|\d+|[@*#?$!-])(\[[^]]*\])?(.*)\}", re.DOTALL)
_ARITHMETIC = re.compile(r"\$\(\((.*)\)\)", re.DOTALL)
_TO_GIVE = "give --set NAME=VALUE for what it sets"
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)


@dataclass(slots=True, kw_only=True)
class Scope:
    """Variables of a script while it is read."""

    variables: dict[str, list[str]] = field(default_factory=dict)
    """Each a list of words; plain ones have one."""
    given: frozenset[str] = frozenset()
    """Set by the user, which goes before what the script says."""
    positional: tuple[str, ...] = ()
    unknowns: Unknowns = field(default_factory=Unknowns)
    compared: dict[str, list[str]] = field(default_factory=dict)
    """Values that conditions compare a variable with that is not set."""

    def assign(self, name: str, words: list[str], *, append: bool = False) -> None:
        """Set a variable; a number of characters above `MAX_WORD` is cut to an unknown."""
        if name in self.given:
            return
        if append:
            before = self.variables.get(name, [])
            words = [*before, *words]
        if sum(map(len, words)) > MAX_WORD * 10 or len(words) > MAX_WORD:
            words = [self.unknowns.mark(Unknown(f"${name} grows without end"))]
        self.variables[name] = [self._named(name, word) for word in words]

    def append_text(self, name: str, text: str) -> None:
        """`NAME+=text` of a plain variable."""
        before = self.variables.get(name, [""])
        self.assign(name, [*before[:-1], (before[-1] if before else "") + text])

    def value(self, name: str) -> str | None:
        """The text of a variable; None where it is not set."""
        if name.isdigit() and name != "0":
            index = int(name) - 1
            return self.positional[index] if index < len(self.positional) else None
        words = self.variables.get(name)
        return None if words is None else (words[0] if words else "")

    def _named(self, name: str, word: str) -> str:
        """A word that a command would print, with the variable to give instead of it."""
        found = self.unknowns.within(word)
        if len(found) != 1 or not found[0].why.endswith(_TO_GIVE):
            return word
        why = found[0].why.removesuffix(_TO_GIVE) + f"give --set {name}=VALUE"
        return MARK.sub(lambda _: self.unknowns.mark(Unknown(why)), word)

    def missing(self, name: str) -> str:
        """The mark of a variable that is not set."""
        return self.unknowns.mark(
            Unknown(f"${name} is not set here; give --set {name}=VALUE", name)
        )


def text_of(node: Node) -> str:
    """The source of a node."""
    return (node.text or b"").decode(errors="replace")


def words_of(node: Node, scope: Scope) -> list[str]:
    """The words that a node of the syntax tree becomes."""
    whole = _all_words(node, scope)
    if whole is not None:
        return whole
    words: list[str] = []
    current: str | None = None
    for text, split in _pieces(node, scope):
        if not split:
            current = (current or "") + text
            continue
        parts = re.split(r"\s+", text)
        for index, part in enumerate(parts):
            if index:
                if current is not None:
                    words.append(current)
                current = None
            if part:
                current = (current or "") + part
    if current is not None:
        words.append(current)
    return [word[:MAX_WORD] for word in words]


def joined(node: Node, scope: Scope) -> str:
    """The one text of a node, not split: the value of an assignment."""
    whole = _all_words(node, scope)
    if whole is not None:
        return " ".join(whole)
    return "".join(text for text, _ in _pieces(node, scope))[: MAX_WORD * 10]


def _all_words(node: Node, scope: Scope) -> list[str] | None:
    """The words of `"${A[@]}"`, `${A[*]}`, `"$@"`; None for other nodes."""
    inner, quoted = node, False
    if node.type == "string":
        if len(node.named_children) != 1 or text_of(node.named_children[0]) != text_of(node)[1:-1]:
            return None
        inner, quoted = node.named_children[0], True
    text = text_of(inner)
    if text in ("$@", "$*", "${@}", "${*}", "${@:1}"):
        return list(scope.positional)
    match = re.fullmatch(r"\$\{([A-Za-z_]\w*)\[[@*]\]\}", text)
    if match is None:
        return None
    words = scope.variables.get(match[1], None)
    if words is None:
        return [scope.missing(match[1])]
    return list(words) if quoted else [part for word in words for part in word.split()]


def _pieces(node: Node, scope: Scope) -> Iterator[Piece]:
    kind = node.type
    if kind == "concatenation":
        for child in node.children:
            yield from _pieces(child, scope)
    elif kind in ("string", "translated_string"):
        yield from ((text, False) for text in _quoted(node, scope))
    elif kind == "raw_string":
        yield text_of(node)[1:-1], False
    elif kind == "ansi_c_string":
        yield _ESCAPED.sub(r"\1", text_of(node)[2:-1]), False
    elif kind in EXPANSIONS:
        yield expanded(node, scope), True
    elif node.named_child_count and any(c.type in EXPANSIONS for c in node.named_children):
        yield from ((text, False) for text in _gaps(node, scope, 0, 0))
    else:
        yield _ESCAPED.sub(lambda m: "" if m[1] == "\n" else m[1], text_of(node)), False


def _quoted(node: Node, scope: Scope) -> Iterator[str]:
    head = 2 if node.type == "translated_string" else 1
    return _gaps(node, scope, head, 1)


def document(node: Node, scope: Scope) -> str:
    """The text of a here-document."""
    return "".join(_gaps(node, scope, 0, 0))


def _gaps(node: Node, scope: Scope, head: int, tail: int) -> Iterator[str]:
    """The expansions of a node, and the text between them as it stands."""
    source = node.text or b""
    start = head
    for child in _outer_expansions(node):
        begin = child.start_byte - node.start_byte
        yield _unescaped(source[start:begin].decode(errors="replace"))
        yield expanded(child, scope)
        start = child.end_byte - node.start_byte
    yield _unescaped(source[start : len(source) - tail].decode(errors="replace"))


def _outer_expansions(node: Node) -> Iterator[Node]:
    for child in node.named_children:
        if child.type in EXPANSIONS:
            yield child
        elif child.type in ("string_content", "concatenation", "heredoc_content"):
            yield from _outer_expansions(child)


def _unescaped(text: str) -> str:
    return re.sub(r'\\([\\"$`\n])', lambda match: "" if match[1] == "\n" else match[1], text)


def _bare(text: str) -> str:
    """An expansion without the blanks and continued lines that the grammar counts to it."""
    return re.sub(r"\A(?:\s|\\\n)+", "", text)


def expanded(node: Node, scope: Scope) -> str:
    """The text of one expansion, with the blanks before it that the grammar counts to it."""
    text = text_of(node)
    body = _bare(text)
    blanks = text[: len(text) - len(body)].replace("\\\n", "")
    if node.type == "simple_expansion":
        return blanks + _simple(body.strip()[1:], scope)
    if node.type == "expansion":
        return blanks + _parameter(node, scope)
    if node.type == "arithmetic_expansion":
        return blanks + arithmetic(node, scope)
    return blanks + _substituted(node, scope)


def _simple(name: str, scope: Scope) -> str:
    if name in ("@", "*"):
        return " ".join(scope.positional)
    if name == "#":
        return str(len(scope.positional))
    found = scope.value(name)
    return scope.missing(name) if found is None else found


def _parameter(node: Node, scope: Scope) -> str:
    match = _PARAMETER.fullmatch(_bare(text_of(node)).strip())
    if match is None:
        return scope.unknowns.mark(Unknown(f"{text_of(node)[:60]} is not understood"))
    sign, name, index, rest = match.groups()
    words = scope.variables.get(name)
    if sign == "#" and index:
        return scope.missing(name) if words is None else str(len(words))
    if sign == "!":
        pointed = scope.value(name)
        return scope.missing(name) if pointed is None else _simple(pointed, scope)
    value = scope.value(name)
    if index and words is not None:
        if index[1:-1] in ("@", "*"):
            value = " ".join(words)
        else:
            place = _subscript(index[1:-1], scope)
            value = words[place] if place is not None and place < len(words) else None
    if sign == "#":
        return scope.missing(name) if value is None else str(len(value))
    operation = re.match(r":?[-=+?]", rest)
    if operation:
        return _default(node, operation[0], name, value, scope)
    if value is None:
        return scope.missing(name)
    return _edited(value, rest, scope) if rest else value


def _subscript(text: str, scope: Scope) -> int | None:
    text = _NAME.sub(lambda match: scope.value(match[0]) or "", text.replace("$", ""))
    return int(text) if text.isdigit() else None


def _default(node: Node, operation: str, name: str, value: str | None, scope: Scope) -> str:
    empty = value is None or (operation[0] == ":" and value == "")
    parts = [child for child in node.named_children if child.type not in ("subscript",)]
    parts = parts[1:] if parts and parts[0].type == "variable_name" else parts
    other = "".join(joined(part, scope) for part in parts)
    if operation[-1] == "+":
        return "" if empty else other
    if not empty and value is not None:
        return value
    if operation[-1] == "?":
        return scope.missing(name)
    if operation[-1] == "=":
        scope.assign(name, [other])
    return other


def _edited(value: str, rest: str, scope: Scope) -> str:
    """`${X%%/*}`, `${X//a/b}`, `${X,,}`, `${X:0:2}`."""
    if MARK.search(value):
        return value
    if rest in (",,", "^^"):
        return value.lower() if rest == ",," else value.upper()
    if cut := re.fullmatch(r":\s*(\d+)(?::(\d+))?", rest):
        end = int(cut[1]) + int(cut[2]) if cut[2] else None
        return value[int(cut[1]) : end]
    if ends := re.fullmatch(r"(%%?|##?)([^$]*)", rest):
        pattern = ends[2].strip("\"'")
        places = range(len(value) + 1)
        if ends[1][0] == "#":
            fit = [i for i in places if fnmatch.fnmatchcase(value[:i], pattern)]
            return value[(max(fit) if ends[1] == "##" else min(fit)) :] if fit else value
        fit = [i for i in places if fnmatch.fnmatchcase(value[i:], pattern)]
        return value[: (min(fit) if ends[1] == "%%" else max(fit))] if fit else value
    if swap := re.fullmatch(r"(//?)([^/$*?\[]+)/([^$]*)", rest):
        return value.replace(swap[2], swap[3], -1 if swap[1] == "//" else 1)
    return scope.unknowns.mark(Unknown(f"${{...{rest[:40]}}} is not understood"))


def arithmetic(node: Node, scope: Scope) -> str:
    """The number of `$((...))` or `((...))`, or a mark of what is not known of it."""
    parts: list[str] = []
    source, start = node.text or b"", 0

    def walk(inner: Node) -> None:
        nonlocal start
        for child in inner.children:
            if child.type in EXPANSIONS or child.type == "variable_name":
                begin = child.start_byte - node.start_byte
                parts.append(source[start:begin].decode(errors="replace"))
                value = (
                    expanded(child, scope)
                    if child.type in EXPANSIONS
                    else _simple(text_of(child), scope)
                )
                parts.append(f" {value or '0'} ")
                start = child.end_byte - node.start_byte
            else:
                walk(child)

    walk(node)
    parts.append(source[start:].decode(errors="replace"))
    text = "".join(parts).strip().removeprefix("$").strip()
    text = " ".join(text.removeprefix("((").removesuffix("))").removeprefix("[").split())
    return number_or_mark(text.removesuffix("]"), scope)


def number_or_mark(text: str, scope: Scope) -> str:
    """A calculated number, or the mark of why it cannot be."""
    if found := scope.unknowns.within(text):
        return scope.unknowns.mark(found[0])
    for name in set(_NAME.findall(text)) - {"and", "or", "not"}:
        value = scope.value(name)
        if value is None:
            return scope.missing(name)
        text = re.sub(rf"\b{name}\b", value, text)
    try:
        return str(calculated(text))
    except ValueError:
        return scope.unknowns.mark(Unknown(f"cannot be calculated: {text[:60]!r}"))


def _substituted(node: Node, scope: Scope) -> str:
    """What a command would print, of the few that only rewrite their words."""
    if inner := _ARITHMETIC.fullmatch(_bare(text_of(node)).strip()):
        # Behind `:-` the grammar takes arithmetic for a command in brackets.
        return number_or_mark(re.sub(r"\$\{?([A-Za-z_]\w*)\}?", r"\1", inner[1]), scope)
    commands = [child for child in node.named_children if child.type != "comment"]
    if len(commands) == 1:
        parts = commands[0].named_children if commands[0].type == "pipeline" else commands
        if all(part.type == "command" for part in parts):
            words = [
                [w for c in part.named_children for w in words_of_name(c, scope)] for part in parts
            ]
            printed = _printed(words, scope)
            if printed is not None:
                return printed
    shown = " ".join(text_of(node).split())[:60]
    return scope.unknowns.mark(Unknown(f"{shown} is not executed; {_TO_GIVE}"))


def words_of_name(node: Node, scope: Scope) -> list[str]:
    """The words of an argument, or of the name of a command."""
    if node.type == "command_name":
        return [word for child in node.children for word in words_of(child, scope)]
    return words_of(node, scope)


def _printed(commands: list[list[str]], scope: Scope) -> str | None:
    first = commands[0]
    if not first or any(not command for command in commands):
        return None
    if first[0] == "echo" and len(commands) == 1:
        return " ".join(word for word in first[1:] if word not in ("-n", "-e"))
    if first[0] == "echo" and [c[0] for c in commands[1:]] == ["bc"]:
        return number_or_mark(" ".join(w for w in first[1:] if w != "-n"), scope)
    if first[0] == "expr" and len(commands) == 1:
        return number_or_mark(" ".join(first[1:]), scope)
    if first[0] == "dirname" and len(first) == 2 and not MARK.search(first[1]):
        return first[1].rstrip("/").rpartition("/")[0] or "."
    if first[0] == "basename" and len(first) == 2:
        return first[1].rstrip("/").rpartition("/")[2]
    return None
