"""Documents that are nearly right: valid ones with at most three changes."""

import copy
import json
from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st

Draw = Callable[[st.SearchStrategy[Any]], Any]

NUMBERS: list[Any] = [
    *(0, -1, 1, 2, 3, 7, 8, 64, 1000, 10**6, 10**9, 2**31, 2**63, 10**30, -(10**12)),
    *(0.0, -0.0, 0.5, 1.5, -2.5, 1e-300, 1e-9, 1e9, 1e300, float("inf"), float("-inf")),
    float("nan"),
]
OTHERS: list[Any] = [
    *(None, True, False, "", "8", "none", "auto", "1f1b", "ä\u2028", "\x00", "x" * 300),
    *([], [1], [0, 0], ["a"], [[]], {}, {"a": 1}, {"min": 3, "max": 1}, [True, 2.5, None]),
]
SIZES = st.one_of(
    st.sampled_from(NUMBERS), st.integers(), st.floats(), st.integers(1, 64), st.integers(-2, 9)
)
VALUES = st.one_of(SIZES, st.sampled_from(OTHERS), st.text(max_size=8))


def paths(document: Any, own: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where there is something in a document of tables and lists."""
    found = [own] if own else []
    items: list[tuple[Any, Any]] = []
    if isinstance(document, dict):
        items = list(document.items())
    elif isinstance(document, list):
        items = list(enumerate(document))
    for key, value in items:
        found += paths(value, (*own, key))
    return found


def changed(draw: Draw, document: Any, keep: tuple[str, ...] = ()) -> Any:
    """A copy with at most three changes; `keep`: keys that stay as they are."""
    made = copy.deepcopy(document)
    for _ in range(draw(st.sampled_from([0, 1, 1, 1, 1, 2, 3]))):
        places = [path for path in paths(made) if path[-1] not in keep]
        if places:
            _change(draw, made, draw(st.sampled_from(places)))
    return made


def _change(draw: Draw, document: Any, path: tuple[Any, ...]) -> None:
    *above, key = path
    parent = document
    for step in above:
        parent = parent[step]
    value = parent[key]
    kind = draw(
        st.sampled_from(
            ["value", "value", "near", "near", "near", "near", "near", "gone", "more", "name"]
        )
    )
    if kind == "near" and isinstance(value, bool):
        parent[key] = not value
    elif kind == "near" and isinstance(value, int | float):
        by = draw(st.sampled_from([0, 1, 2, 3, 10, 1000, 0.5, 1 / 3, -1, 1e12]))
        parent[key] = value * by if isinstance(value, float) else _whole(value * by)
    elif kind == "gone":
        del parent[key]
    elif kind == "more":
        more = copy.deepcopy(draw(VALUES))
        if isinstance(parent, list):
            parent.insert(key, more)
        else:
            parent[draw(st.sampled_from(["extra", "", "name", "num_layers"]))] = more
    elif kind == "name" and isinstance(parent, dict):
        parent[f"{key}{draw(st.sampled_from(['s', '_', ' ', 'x']))}"] = parent.pop(key)
    else:
        parent[key] = copy.deepcopy(draw(VALUES))


def _whole(value: float) -> Any:
    return int(value) if abs(value) < 1e15 and value == int(value) else value


def broken(draw: Draw, text: str) -> str:
    """A text with up to three places cut, doubled or overwritten."""
    for _ in range(draw(st.integers(1, 3))):
        begin = draw(st.integers(0, len(text)))
        end = min(len(text), begin + draw(st.integers(0, 12)))
        other = draw(
            st.one_of(
                st.just(""),
                st.just(text[begin:end] * 2),
                st.sampled_from([",", "\n", "0F0", "-1", "{", "]", '"', "nan", "1e999", "\x00"]),
                st.text(max_size=4),
            )
        )
        text = text[:begin] + other + text[end:]
    return text


def as_json(document: Any) -> str:
    """The document as JSON; NaN and infinities as Python writes them."""
    return json.dumps(document)


def as_toml(document: dict[str, Any]) -> str:
    """The document as TOML, every table inline; what TOML does not have becomes a string."""
    return "".join(f"{json.dumps(str(k))} = {_toml(v)}\n" for k, v in document.items())


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(str(k))} = {_toml(v)}" for k, v in value.items()) + "}"
    return json.dumps(str(value))
