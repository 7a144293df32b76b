"""Dataclasses whose constructors answer a mistake with one clear line.

`checked` wraps the constructor of a dataclass: an unknown or missing field, or a value of the wrong
type, becomes a `ParplanError` that says what was given and what is allowed.
"""

import contextlib
import dataclasses
import functools
import math
import operator
import re
import types
import typing
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from parplan.errors import ParplanError, short, unknown_name

MOST_WHOLE = 2**63 - 1
"""What a whole number may be: it also has to be one for numpy."""

CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
"""What a terminal may obey, but for tabs and ends of lines."""

C = TypeVar("C", bound=type)
Read = TypeVar("Read")
Accepted = TypeVar("Accepted")

if TYPE_CHECKING:

    class Given(Generic[Read, Accepted]):
        """For type checkers: a field that is read as one type, and may be given as another too."""

        def __get__(self, obj: object, owner: type) -> Read: ...
        def __set__(self, obj: object, value: Read | Accepted) -> None: ...


Coerce = Callable[[Any], Any]
Expand = Callable[[Any], Mapping[str, Any]]

EXACT: dict[type, frozenset[type]] = {
    int: frozenset({int}),
    float: frozenset({int, float}),
    bool: frozenset({bool}),
    str: frozenset({str}),
}
"""Types of values that need no closer look, by the type of the field."""


def checked(
    *,
    coerce: Mapping[str, Coerce] | None = None,
    expand: Mapping[str, Expand] | None = None,
    named: Mapping[str, Expand] | None = None,
    default: Expand | None = None,
) -> Callable[[C], C]:
    """A class decorator for dataclasses, put above `@dataclass`.

    `coerce`: functions that fields go through first, such as one that looks up a name. `expand`:
    keywords that are no fields, each with a function that makes fields of its value. `named`:
    fields for which a name may be given, that stands for their value and for others that are not
    given. `default`: fields of what is not given, by what is.
    """
    coerced, expanded, sets = dict(coerce or {}), dict(expand or {}), dict(named or {})

    def decorate(cls: C) -> C:
        make: Callable[..., None] = cls.__init__  # type: ignore[misc]
        fields = {f.name: f for f in dataclasses.fields(cls)}
        positional = [name for name, field in fields.items() if not field.kw_only]

        required = [name for name, field in fields.items() if _is_required(field)]

        @functools.cache
        def hints() -> dict[str, Any]:
            return typing.get_type_hints(cls)

        @functools.cache
        def kinds() -> dict[str, frozenset[type]]:
            return {name: _exact(hints()[name], name in coerced) for name in fields}

        @functools.cache
        def words() -> dict[str, frozenset[str]]:
            hint = hints()
            own = (name for name in fields if typing.get_origin(hint[name]) is typing.Literal)
            return {name: frozenset(typing.get_args(hint[name])) for name in own}

        def closer(name: str, value: Any) -> Any:
            if type(value) is str and value in words().get(name, ()):
                return value
            if name in coerced:
                value = coerced[name](value)
            return value_of(hints()[name], value, name)

        @functools.wraps(make)
        def init(self: Any, *args: Any, **given: Any) -> None:
            if args:
                given = _with_positional(cls.__name__, args, positional, given)
            for name in sets:
                if isinstance(given.get(name), str):
                    given = {**sets[name](given.pop(name)), **given}
            if default is not None:
                given = {**default(given), **given}
            for name in expanded:
                if name in given:
                    _expand(name, given, expanded[name])
            exact = kinds()
            for name, value in given.items():
                if name not in exact:
                    raise unknown_name(f"field of {cls.__name__}", name, [*fields, *expanded])
                if type(value) not in exact[name] or is_odd(value):
                    given[name] = closer(name, value)
            for name in required:
                if name not in given:
                    raise ParplanError(f"{cls.__name__}: {name} is missing")
            make(self, **given)

        cls.__init__ = init  # type: ignore[misc]
        return cls

    return decorate


def _with_positional(
    what: str, args: tuple[Any, ...], names: list[str], given: dict[str, Any]
) -> dict[str, Any]:
    if len(args) > len(names):
        allowed = f"only {', '.join(names)}" if names else "nothing"
        raise ParplanError(
            f"{what}: {allowed} may be given without a name, got {len(args)} values; "
            "write the others as NAME=VALUE"
        )
    for name in names[: len(args)]:
        if name in given:
            raise ParplanError(f"{what}: {name} is given twice")
    return {**dict(zip(names, args, strict=False)), **given}


def _expand(name: str, given: dict[str, Any], expand: Expand) -> None:
    """Put the fields that a keyword stands for in its place; None stands for none."""
    value = given.pop(name)
    if value is None:
        return
    for field, own in expand(value).items():
        if given.setdefault(field, own) != own:
            raise ParplanError(f"{name}: {short(value)} contradicts {field} {short(given[field])}")


def _exact(hint: Any, is_coerced: bool) -> frozenset[type]:
    """Types of values of a field that need no closer look."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        found = [_exact(member, is_coerced) for member in typing.get_args(hint)]
        return frozenset().union(*found)
    if is_coerced or not isinstance(hint, type) or typing.get_origin(hint) is not None:
        return frozenset()
    return EXACT.get(hint, frozenset({hint}))


def is_odd(value: Any) -> bool:
    """Whether a value is no finite number, one beyond 64 bits, or text that a terminal obeys."""
    if type(value) is float:
        return value - value != 0
    if type(value) is str:
        return not value.isprintable() and CONTROL.search(value) is not None
    return type(value) is int and not -MOST_WHOLE <= value <= MOST_WHOLE


def _is_required(field: "dataclasses.Field[Any]") -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def value_of(hint: Any, value: object, where: str) -> Any:
    """`value` as the type `hint`: lists become tuples, whole numbers of other libraries `int`.

    Hints that are not understood allow everything. Raises `ParplanError` that begins with `where`.
    """
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        return _of_union(typing.get_args(hint), value, where)
    if origin is typing.Literal:
        allowed = typing.get_args(hint)
        if not isinstance(value, str) or value not in allowed:
            if isinstance(value, str):
                raise unknown_name(where, value, map(str, allowed))
            raise ParplanError(
                f"{where}: expected one of {', '.join(map(str, allowed))}, got {_short(value)}"
            )
        return value
    if origin is tuple:
        return _of_tuple(typing.get_args(hint), value, where)
    if hint in (int, float, bool, str):
        return _scalar(hint, value, where)
    is_plain = isinstance(hint, type) and not getattr(hint, "_is_protocol", False)
    if is_plain and not isinstance(value, hint):
        raise ParplanError(f"{where}: expected a {hint.__name__}, got {_short(value)}")
    return value


def _of_union(members: tuple[Any, ...], value: object, where: str) -> Any:
    if value is None and type(None) in members:
        return None
    others = [member for member in members if member is not type(None)]
    if len(others) == 1:
        return value_of(others[0], value, where)
    for member in others:
        try:
            return value_of(member, value, where)
        except ParplanError:
            continue
    names = ", ".join(getattr(member, "__name__", str(member)) for member in others)
    raise ParplanError(f"{where}: expected one of {names}, got {_short(value)}")


def _of_tuple(members: tuple[Any, ...], value: object, where: str) -> Any:
    if not isinstance(value, list | tuple):
        raise ParplanError(f"{where}: expected a list, got {_short(value)}")
    if len(members) == 2 and members[1] is Ellipsis:
        found = [value_of(members[0], v, f"{where}[{i}]") for i, v in enumerate(value)]
        return value if type(value) is tuple and found == list(value) else tuple(found)
    return tuple(value)


def _scalar(hint: type, value: object, where: str) -> Any:
    if hint is bool and type(value).__name__ in ("bool", "bool_"):
        return bool(value)
    if hint is int and not isinstance(value, bool | type) and hasattr(value, "__index__"):
        with contextlib.suppress(TypeError, ValueError):  # An array; a class of the user's own.
            return _of_64_bits(operator.index(value), where)
    if hint is float and not isinstance(value, bool | str | type) and hasattr(value, "__float__"):
        with contextlib.suppress(TypeError, ValueError, OverflowError, ArithmeticError):
            if math.isfinite(float(value)):
                return value if type(value) in (int, float) else float(value)
    if hint is str and isinstance(value, str):
        return without_control(value, where)
    words = ("a whole number", "a finite number", "True or False", "a text")
    expected = dict(zip((int, float, bool, str), words, strict=True))
    raise ParplanError(f"{where}: expected {expected[hint]}, got {_short(value)}")


def without_control(text: str, where: str) -> str:
    """The text; raises `ParplanError` where it holds what a terminal obeys."""
    if not text.isprintable() and CONTROL.search(text):
        raise ParplanError(f"{where}: holds a control character: {_short(text)}")
    return text


def _of_64_bits(value: int, where: str) -> int:
    if abs(value) > MOST_WHOLE:
        raise ParplanError(f"{where}: at most {MOST_WHOLE}, got {_short(value)}")
    return value


def _short(value: object) -> str:
    return short(value, 80)
