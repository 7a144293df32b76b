"""Whether the tests of a shell script hold, as far as their values are known."""

import fnmatch

from tree_sitter import Node

from parplan.experiments.interop.shell.values import MARK
from parplan.experiments.interop.shell.words import (
    Scope,
    arithmetic,
    joined,
    text_of,
    words_of_name,
)

_NUMERIC = {"-eq": "==", "-ne": "!=", "-gt": ">", "-ge": ">=", "-lt": "<", "-le": "<="}


def condition(node: Node, scope: Scope) -> bool | None:
    """Whether a test holds; None where that is not known."""
    kind = node.type
    inner = node.named_children
    if kind in ("test_command", "parenthesized_expression") and len(inner) == 1:
        return condition(inner[0], scope)
    if kind == "negated_command" or (kind == "unary_expression" and text_of(node)[0] == "!"):
        truth = condition(inner[-1], scope)
        return None if truth is None else not truth
    if kind == "unary_expression":
        return _of_text(node, scope)
    if kind == "compound_statement" and text_of(node).startswith("(("):
        number = arithmetic(node, scope)
        return None if MARK.search(number) else number != "0"
    if kind in ("list", "binary_expression"):
        operator = next((c.type for c in node.children if not c.is_named), "")
        if operator in ("&&", "||", "-a", "-o"):
            return _both(condition(inner[0], scope), condition(inner[-1], scope), operator)
        return _compared(node, scope)
    if kind == "command":
        words = [word for child in inner for word in words_of_name(child, scope)]
        return {"true": True, "false": False}.get(words[0]) if words else None
    return None


def _both(left: bool | None, right: bool | None, operator: str) -> bool | None:
    decisive = operator in ("||", "-o")
    if decisive in (left, right):
        return decisive
    return None if None in (left, right) else not decisive


def _of_text(node: Node, scope: Scope) -> bool | None:
    """`-z` and `-n`; a variable that nobody set is empty."""
    operator, operand = text_of(node.children[0]), node.named_children[-1]
    if operator not in ("-z", "-n"):
        return None
    text = joined(operand, scope)
    if scope.unknowns.within(text):
        if not _unset(text, scope):
            return None
        text = ""
    return (text == "") == (operator == "-z")


def _unset(text: str, scope: Scope) -> bool:
    """Whether a text is only variables that nobody set."""
    found = scope.unknowns.within(text)
    return bool(found) and not MARK.sub("", text) and all(one.variable for one in found)


def _compared(node: Node, scope: Scope) -> bool | None:
    children = [child for child in node.children if child.type != "comment"]
    if len(children) != 3:
        return None
    left, right = joined(children[0], scope), joined(children[2], scope)
    operator = text_of(children[1])
    if operator in ("=", "==", "!=") and not right and _unset(left, scope):
        left = ""
    if MARK.search(left + right):
        return None
    if operator in _NUMERIC:
        try:
            a, b = int(left), int(right)
        except ValueError:
            return None
        tests = {"==": a == b, "!=": a != b, ">": a > b, ">=": a >= b, "<": a < b, "<=": a <= b}
        return tests[_NUMERIC[operator]]
    if operator in ("=", "==", "!="):
        pattern = children[2].type not in ("string", "raw_string")
        same = fnmatch.fnmatchcase(left, right) if pattern else left == right
        return same == (operator != "!=")
    return None
