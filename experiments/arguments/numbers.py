"""Numbers on the command line: finite, and of a size that makes sense, in every command.

`parplan.experiments.cli` puts `whole` and `finite` in place of `int` and `float` for all arguments,
and checks every option in `check_numbers` before its command begins.
"""

import argparse
import math
import re

from parplan._checked import MOST_WHOLE
from parplan.errors import ParplanError, short

POWERS = {"": 0, "k": 1, "m": 2, "g": 3, "b": 3, "t": 4}
"""Thousands by suffix; B is the billion of tokens and parameters."""

_NUMBER = re.compile(
    r"([+-]?(?:(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)(?:\.[0-9]*)?|\.[0-9]+)(?:e[+-]?[0-9]+)?)"
    r"\s*([kmgbt]?)",
    flags=re.IGNORECASE,
)
"""Digits, with commas before each three or none; then a power of ten, and a suffix."""

MOST_DIGITS = 40

MOST_PROCESSES = 4096

MOST_FACTOR = 1e6

MOST = 1e18
"""Of any option, above and below 0."""

BETWEEN: dict[str, tuple[float, float]] = {
    "processes": (0, MOST_PROCESSES),
    "workers": (0, MOST_PROCESSES),
    "jobs": (0, MOST_PROCESSES),
    "nnodes": (0, 100_000),
    "repeats": (0, 100_000),
    "seeds": (0, 10_000),
    "seed": (0, 2**63 - 1),
    "layers": (0, 100_000),
    "scale": (0, 10**6),
    "batch": (0, 10**9),
    "seq_len": (0, 10**9),
    "micro_batch": (0, 10**9),
    "vocab_size": (0, 10**9),
    "nodes": (0, 10**6),
    "timeout": (0, 10**9),
    "stall": (0, 10**9),
    "budget_s": (0, 10**9),
    "restart_s": (0, 10**9),
    "checkpoint_s": (0, 10**9),
    "tokens": (-MOST, 1e18),
    "price_per_hour": (0, 1e9),
    "deadline_days": (0, 1e6),
    "accelerator_mtbf_hours": (0, 1e12),
    "noise": (0, 10),
    "memory_ratio": (-MOST, 100),
    "memory_ratio_percent": (-MOST, 100),
}
"""The least and the most of an option, by its name; what a command cannot do it refuses itself."""


def whole(text: str) -> int:
    """A whole number of an option; raises `argparse.ArgumentTypeError` for anything else."""
    word = text.strip()
    if len(word) > MOST_DIGITS:
        raise argparse.ArgumentTypeError(f"a number of {len(word)} characters; at most 64 bits")
    if re.fullmatch(r"[+-]?\d+", word, re.ASCII) is None:
        raise argparse.ArgumentTypeError(f"invalid int value: {short(text)}")
    value = int(word)
    if abs(value) > MOST_WHOLE:
        raise argparse.ArgumentTypeError(f"at most {MOST_WHOLE}, got {word}")
    return value


def finite(text: str) -> float:
    """A number of an option; raises `argparse.ArgumentTypeError` for NaN and infinities too."""
    try:
        value = float(text) if text.isascii() and "_" not in text else None
    except ValueError:
        value = None
    if value is None:
        raise argparse.ArgumentTypeError(f"invalid float value: {short(text)}")
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"expected a finite number, got {short(text)}")
    return value


def factor(text: str) -> float:
    """What a part of a machine is multiplied by; raises `argparse.ArgumentTypeError` for others."""
    try:
        value = finite(text)
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(
            f"expected a factor, as in 0.5 or 2, got {short(text)}"
        ) from None
    if not value > 0:
        raise argparse.ArgumentTypeError(f"the factor has to be above 0, got {short(text)}")
    if not 1 / MOST_FACTOR <= value <= MOST_FACTOR:
        raise argparse.ArgumentTypeError(
            f"the factor has to be from {1 / MOST_FACTOR:g} to {MOST_FACTOR:g}, got {short(text)}"
        )
    return value


def count(text: str) -> int:
    """A whole number; k and M are 1,024 and 1,048,576, as in a sequence of 128k tokens.

    Raises `argparse.ArgumentTypeError` for anything else.
    """
    value = _parsed(text, 1024)
    if value is None or value != int(value):
        raise argparse.ArgumentTypeError(
            f"expected a whole number such as 8192 or 8k (k is 1,024), got {short(text)}"
        )
    return int(value)


def amount(text: str) -> float:
    """A number; k, M, G or B, and T are 10^3, 10^6, 10^9, 10^12, as in 1.5T tokens.

    Raises `argparse.ArgumentTypeError` for anything else.
    """
    value = _parsed(text, 1000)
    if value is None:
        raise argparse.ArgumentTypeError(
            f"expected a number such as 3e11, 300B or 1.5T, got {short(text)}"
        )
    return value


def _parsed(text: str, thousand: int) -> float | None:
    match = _NUMBER.fullmatch(text.strip())
    if match is None:
        return None
    value = float(match[1].replace(",", "")) * thousand ** POWERS[match[2].lower()]
    return value if math.isfinite(value) else None


def check_numbers(args: argparse.Namespace) -> None:
    """Raise `ParplanError` for a number beyond what its option can mean."""
    for name, value in vars(args).items():
        if type(value) not in (int, float):
            continue
        least, most = BETWEEN.get(name, (-MOST, MOST))
        if not least <= value <= most:
            option = f"--{name.removesuffix('_percent').replace('_', '-')}"
            what = f"at least {least:g}" if value < least else f"at most {most:g}"
            raise ParplanError(f"{option}: must be {what}, got {value:g}")
