"""The commands that a shell script would start, from its syntax tree. Nothing is executed."""

import copy
import fnmatch
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import tree_sitter_bash
from tree_sitter import Language, Node, Parser

from parplan._strict import read_text
from parplan.errors import ParplanError
from parplan.experiments.interop.beside import beside
from parplan.experiments.interop.shell.conditions import condition
from parplan.experiments.interop.shell.values import Unknown
from parplan.experiments.interop.shell.words import (
    Scope,
    document,
    joined,
    text_of,
    words_of,
    words_of_name,
)

MAX_SOURCE, MAX_STEPS, MAX_NESTED, MAX_PLACES = 2_000_000, 50_000, 30, 100
DECLARATIONS = ("export", "declare", "local", "readonly", "typeset")
SHELLS = ("bash", "sh", "zsh", "/bin/bash", "/bin/sh", "sbatch")
_PARSER = Parser(Language(tree_sitter_bash.language()))
_ASSIGNED = re.compile(r"([A-Za-z_]\w*)(\+?)=(.*)", re.DOTALL)
_TEMPLATE = re.compile(r"(?<![<(\w])<([A-Za-z][\w /.-]*)>(?!>)")


@dataclass(slots=True, kw_only=True)
class Script:
    """What a script would do."""

    where: str
    scope: Scope = field(default_factory=Scope)
    commands: list[list[str]] = field(default_factory=list)
    """The words of each command, in their order."""
    files: dict[str, str] = field(default_factory=dict)
    """Texts that it writes with here-documents, by file name."""
    functions: dict[str, Node] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    steps: int = 0
    depth: int = 0
    sourced: int = 0


def read_script(
    text: str, where: str, variables: Mapping[str, str], scheduled: Mapping[str, str] | None = None
) -> Script:
    """The commands of `text`; `variables` go before those that it sets itself.

    `scheduled`: variables that the scheduler sets, which the script may change.

    Raises `ParplanError` for text that is not a shell script, or that goes on without end.
    """
    script = Script(where=where)
    script.scope.given = frozenset(variables)
    script.scope.variables = {
        name: [value] for name, value in {**(scheduled or {}), **variables}.items()
    }
    for name in ("0", "BASH_SOURCE"):
        script.scope.variables.setdefault(name, [f"./{Path(where).name}"])
    places = [int(name) for name in variables if name.isdigit() and 0 < int(name) < MAX_PLACES]
    script.scope.positional = tuple(
        variables.get(str(place), script.scope.missing(str(place)))
        for place in range(1, max(places, default=0) + 1)
    )
    _read(text, script)
    return script


def _read(text: str, script: Script) -> None:
    if len(text) > MAX_SOURCE:
        raise ParplanError(f"{script.where}: longer than {MAX_SOURCE} characters")
    if "\0" in text:
        raise ParplanError(f"{script.where}: not a command line: it has zero bytes")
    text = re.sub(r"\\\s*\Z", "\n", text)
    text = _TEMPLATE.sub(lambda match: re.sub(r"[ /]", "_", match[1]), text)
    script.depth += 1
    if script.depth > MAX_NESTED:
        raise ParplanError(f"{script.where}: commands within commands without end")
    root = _PARSER.parse(text.encode(errors="replace")).root_node
    if root.has_error:
        line = _first_error(root).start_point[0] + 1
        raise ParplanError(f"{script.where}: not a command line: line {line} cannot be parsed")
    _each(root.named_children, script)
    script.depth -= 1


def _first_error(node: Node) -> Node:
    while not (node.is_error or node.is_missing):
        node = next((c for c in node.children if c.has_error or c.is_missing), node.children[0])
        if not node.children:
            break
    return node


def _each(nodes: Iterable[Node], script: Script) -> None:
    for node in nodes:
        _run(node, script)


def _run(node: Node, script: Script) -> None:
    script.steps += 1
    if script.steps > MAX_STEPS:
        raise ParplanError(f"{script.where}: more than {MAX_STEPS} steps")
    kind = node.type
    if kind == "variable_assignment":
        _assign(node, script)
    elif kind == "command":
        _command(node, script, None)
    elif kind == "declaration_command":
        _declare(node, script)
    elif kind == "if_statement":
        _if(node, script)
    elif kind == "case_statement":
        _case(node, script)
    elif kind == "list":
        _list(node, script)
    elif kind == "redirected_statement":
        _redirected(node, script)
    elif kind == "function_definition":
        name, body = node.child_by_field_name("name"), node.child_by_field_name("body")
        if name is not None and body is not None:
            script.functions[text_of(name)] = body
    elif kind in ("for_statement", "c_style_for_statement", "while_statement"):
        _loop(node, script)
    elif kind == "compound_statement" and text_of(node).startswith("(("):
        return
    elif kind not in ("comment", "test_command", "heredoc_body"):
        _each(node.named_children, script)


def _assign(node: Node, script: Script) -> None:
    name, value = node.child_by_field_name("name"), node.child_by_field_name("value")
    if name is None:
        return
    append = any(child.type == "+=" for child in node.children)
    if name.type == "subscript":
        script.scope.assign(text_of(name).partition("[")[0], [], append=True)
        return
    plain = text_of(name)
    if value is not None and value.type == "array":
        words = [
            word
            for child in value.named_children
            if child.type != "comment"
            for word in words_of(child, script.scope)
        ]
        script.scope.assign(plain, words, append=append)
        return
    text = "" if value is None else joined(value, script.scope)
    if append:
        script.scope.append_text(plain, text)
    else:
        script.scope.assign(plain, [text])


def _declare(node: Node, script: Script) -> None:
    for child in node.named_children:
        if child.type == "variable_assignment":
            _assign(child, script)


def _command(node: Node, script: Script, body: str | None) -> None:
    words: list[str] = []
    for child in node.named_children:
        if child.type == "variable_assignment":
            _assign(child, script)
        elif child.type not in ("comment", "file_redirect", "heredoc_redirect"):
            words += words_of_name(child, script.scope)
    _start(words, script, body)


def _start(words: list[str], script: Script, body: str | None = None) -> None:
    if not words:
        return
    name = words[0]
    if name in DECLARATIONS:
        for word in words[1:]:
            if match := _ASSIGNED.fullmatch(word):
                script.scope.assign(match[1], [match[3]])
    elif name in script.functions and script.depth < MAX_NESTED:
        before, script.scope.positional = script.scope.positional, tuple(words[1:])
        script.depth += 1
        _run(script.functions[name], script)
        script.depth -= 1
        script.scope.positional = before
    elif (place := _shell_within(words)) is not None:
        _within(words, place, script)
    elif name == "eval":
        _read(" ".join(words[1:]), script)
    elif name in SHELLS and body is not None:
        _read(body, script)
    elif name in (".", "source"):
        _source(words[1:], script)
    elif name == "shift":
        script.scope.positional = script.scope.positional[1:]
    elif name not in (":", "echo", "printf", "set", "unset", "true", "cd", "mkdir", "rm"):
        script.commands.append(words)


def _shell_within(words: list[str]) -> int | None:
    """Where in `srun --nodes 2 bash -c 'A=1 python train.py $B'` the shell stands."""
    for place in range(1, len(words) - 1):
        before = words[place - 1].rpartition("/")[2]
        if before in ("bash", "sh", "zsh") and re.fullmatch("-[a-z]*c", words[place]):
            return place - 1
    return None


def _within(words: list[str], place: int, script: Script) -> None:
    """Read what another shell is told, by the same variables; what starts it goes before."""
    started, plain, depth = len(script.commands), [*words], script.depth
    try:
        _read(words[place + 2], script)
    except ParplanError:
        del script.commands[started:]
        script.commands.append(plain)
        script.depth = depth
        return
    inner = script.commands[started:]
    script.commands[started:] = [
        found if found[0].startswith("--") else [*words[:place], *found] for found in inner
    ]


def _source(words: list[str], script: Script) -> None:
    """Read a file that lies beside the script or below it; say of any other that it was not."""
    name = script.scope.unknowns.shown(words[0]) if words else ""
    path = beside(script.where, name)
    if path is None:
        script.notes.append(
            f"source {name}: not read: it is no file beside the script; give what it sets by --set"
        )
        return
    script.sourced += 1
    if script.sourced > MAX_NESTED:
        raise ParplanError(f"{script.where}: more than {MAX_NESTED} files by source")
    _read(read_text(path), script)


def _redirected(node: Node, script: Script) -> None:
    body, target = None, None
    for redirect in node.children_by_field_name("redirect"):
        if redirect.type == "heredoc_redirect":
            text = next((c for c in redirect.named_children if c.type == "heredoc_body"), None)
            quoted = "'" in text_of(redirect).partition("\n")[0]
            if text is not None:
                body = text_of(text) if quoted else document(text, script.scope)
        files = [redirect, *redirect.named_children]
        for found in files:
            if found.type == "file_redirect" and text_of(found).startswith(">"):
                last = found.child_by_field_name("destination")
                target = None if last is None else joined(last, script.scope)
    inner = node.child_by_field_name("body")
    if inner is not None and inner.type == "command":
        if body is not None and target is not None:
            script.files[target] = body
        else:
            _command(inner, script, body)
    elif inner is not None:
        _run(inner, script)


def _list(node: Node, script: Script) -> None:
    """`A && B`: B by what is known of A; a command is taken to succeed."""
    left, right = node.named_children[0], node.named_children[-1]
    operator = "||" if any(child.type == "||" for child in node.children) else "&&"
    truth = condition(left, script.scope)
    if left.type in ("test_command", "negated_command", "list", "compound_statement"):
        if left.type == "list":
            _run(left, script)
        if truth is None:
            _branches([[right], []], [text_of(left)], script)
        elif truth == (operator == "&&"):
            _run(right, script)
        return
    _run(left, script)
    if operator == "&&":
        _run(right, script)


def _if(node: Node, script: Script) -> None:
    """The branch that the values take, or what all that may be taken have in common."""
    open_branches: list[list[Node]] = []
    tests: list[str] = []
    clauses: list[tuple[list[Node], list[Node]]] = []
    clause: Node
    for clause in (node, *(c for c in node.named_children if c.type == "elif_clause")):
        tested = clause.children_by_field_name("condition") or clause.named_children[:1]
        tested = [child for child in tested if child.is_named]
        body = [
            child
            for child in clause.named_children
            if child not in tested and child.type not in ("elif_clause", "else_clause")
        ]
        clauses.append((tested, body))
    for tested, body in clauses:
        truth = condition(tested[-1], script.scope) if tested else None
        if truth is None:
            open_branches.append(body)
            tests.append(" ".join(text_of(child) for child in tested))
        elif truth:
            open_branches.append(body)
            break
    else:
        final = next((c for c in node.named_children if c.type == "else_clause"), None)
        open_branches.append([] if final is None else final.named_children)
    _branches(open_branches, tests, script)


def _case(node: Node, script: Script) -> None:
    subject = node.child_by_field_name("value")
    value = "" if subject is None else joined(subject, script.scope)
    items = [child for child in node.named_children if child.type == "case_item"]
    bodies, patterns = [], []
    for item in items:
        named = item.children_by_field_name("value")
        patterns.append([text_of(pattern).strip("\"'") for pattern in named])
        bodies.append([child for child in item.named_children if child not in named])
    unknown = script.scope.unknowns.within(value)
    if not unknown:
        for body, names in zip(bodies, patterns, strict=True):
            if any(fnmatch.fnmatchcase(value, name) for name in names):
                _each(body, script)
                return
        return
    shown = ", ".join(name for names in patterns for name in names if name != "*")
    name = unknown[0].variable
    test = f"case ${name} of {shown}" if name else f"case {text_of(node)[:40]}"
    _branches(bodies, [test], script, name)


def _loop(node: Node, script: Script) -> None:
    """The body once; the variable is known where it has one value.

    A loop over the arguments of the script is not entered where none are given.
    """
    test = node.child_by_field_name("condition")
    asked = "" if test is None else text_of(test)
    if not script.scope.positional and re.search(r"\$#|\$\{?[1@*]|getopts", asked):
        return
    name = node.child_by_field_name("variable")
    if name is not None:
        values = [
            w for v in node.children_by_field_name("value") for w in words_of(v, script.scope)
        ]
        plain = text_of(name)
        many = Unknown(f"${plain} is each of {' '.join(values)[:60]}; give --set {plain}=VALUE")
        word = values[0] if len(values) == 1 else script.scope.unknowns.mark(many)
        script.scope.assign(plain, [word])
    body = node.child_by_field_name("body")
    if body is not None:
        _run(body, script)


def _branches(
    branches: list[list[Node]], tests: list[str], script: Script, variable: str = ""
) -> None:
    """Take the only branch, or mark all in which several differ."""
    if len(branches) == 1:
        _each(branches[0], script)
        return
    test = " ".join(" ".join(tests[:2]).split())[:100]
    if not variable:
        asked = re.search(r"\$\{?([A-Za-z_]\w*|[1-9]\d*)", " ".join(tests))
        variable = asked[1] if asked else ""
    hint = f"; give --set {variable}=VALUE" if variable else ""
    why = f"depends on a branch that is not known ({test}){hint}"
    before, started = copy.copy(script.scope.variables), len(script.commands)
    after, commands = [], []
    for branch in branches:
        script.scope.variables = copy.copy(before)
        _each(branch, script)
        after.append(script.scope.variables)
        commands.append(script.commands[started:])
        del script.commands[started:]
    script.scope.variables = before
    changed = dict.fromkeys(
        name for table in after for name, value in table.items() if before.get(name) is not value
    )
    for name in changed:
        values = [table.get(name, [""]) for table in after]
        if any(value != values[0] for value in values):
            before[name] = _merged(values, why, name, script.scope)
        else:
            before[name] = values[0]
    _merge_commands(commands, why, script)


def _merged(values: list[list[str]], why: str, name: str, scope: Scope) -> list[str]:
    """What values have in common at their begin, and a mark for the rest."""
    plain = all(len(value) == 1 for value in values)
    parts = [value[0].split() if plain else value for value in values]
    common: list[str] = []
    for words in zip(*parts, strict=False):
        if len(set(words)) > 1:
            break
        common.append(words[0])
    rest = tuple(tuple(part[len(common) :]) for part in parts)
    mark = scope.unknowns.mark(Unknown(f"${name} {why}", "", rest))
    return [" ".join([*common, mark])] if plain else [*common, mark]


def _merge_commands(commands: list[list[list[str]]], why: str, script: Script) -> None:
    if all(found == commands[0] for found in commands):
        script.commands += commands[0]
        return
    for found in commands:
        mark = script.scope.unknowns.mark(Unknown(f"the command {why}"))
        script.commands += [[*words, mark] for words in found]
