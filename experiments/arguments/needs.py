"""Options that have an effect only beside others: where these are missing, they are refused.

An option counts as given where its value is not its default.
"""

import argparse
from collections.abc import Callable
from typing import Any

from parplan.errors import ParplanError

Test = Callable[[argparse.Namespace], Any]

OF_FAILURES = ("training-time", "cost", "energy", "goodput", "fewest-accelerators")
OF_NOISE = "expected-step-time"


def _is(name: str, *values: object) -> Test:
    return lambda args: getattr(args, name) in values


def _has(name: str) -> Test:
    return lambda args: getattr(args, name)


def _is_given(name: str) -> Test:
    return lambda args: getattr(args, name) is not None


def _uses_failures(args: argparse.Namespace) -> bool:
    return bool(args.objective in OF_FAILURES or args.tokens is not None)


def _is_ap(args: argparse.Namespace) -> bool:
    return bool(args.ap_log or args.space == "ap" or args.planner == "as-ap")


def _proves(args: argparse.Namespace) -> bool:
    return bool(args.planner in (None, "branch-and-bound"))


_MONEY = {"currency": (_is_given("price_per_hour"), "--price-per-hour")}
_FAILS = (_is_given("accelerator_mtbf_hours"), "--accelerator-mtbf-hours")
_NOISY = (_is("objective", OF_NOISE), f"--objective {OF_NOISE}")
_AP = (_is_ap, "--space ap or --ap-log")
_OF_A_JOB = (
    lambda args: args.seq_len is not None or args.global_batch is not None,
    "--seq-len and --global-batch, of a job",
)
_SERVED = (lambda args: args.output is None, "a page that is served, so not with -o")

NEEDS: dict[str, dict[str, tuple[Test, str]]] = {
    "plan": {
        "between": (lambda args: "+" in str(args.cluster), "several clusters, --cluster A+B"),
        "ap_version": _AP,
        "detailed_log": (lambda args: not args.detailed_log or _is_ap(args), _AP[1]),
        "deadline_days": (
            _is("objective", "fewest-accelerators"),
            "--objective fewest-accelerators",
        ),
        "accelerator_mtbf_hours": (
            _uses_failures,
            f"--tokens, or --objective {', '.join(OF_FAILURES)}",
        ),
        **dict.fromkeys(("restart_s", "checkpoint_s", "checkpoint_every"), _FAILS),
        **dict.fromkeys(("noise", "straggler"), _NOISY),
        "gap": (_proves, "--planner branch-and-bound, which the default is"),
        **_MONEY,
    },
    "simulate": {"measured_step": (_has("measured"), "--measured"), **_MONEY},
    "landscape": _MONEY,
    "scale": _MONEY,
    "import": _MONEY,
    "explore": {
        **dict.fromkeys(
            ("cluster", "profile", "precision", "no_mixed_precision", "optimizer"), _OF_A_JOB
        ),
        **dict.fromkeys(("tf32", "attention", "software"), _OF_A_JOB),
        **dict.fromkeys(("port", "no_browser"), _SERVED),
    },
    "benchmark": {
        **dict.fromkeys(("samples", "calculon"), (_has("planners"), "--planners")),
        "repeats": (
            lambda args: args.execution or args.unseen or args.scripts is not None,
            "--execution, --unseen or --scripts",
        ),
    },
    "validate": {
        "search_seconds": (_has("search"), "--search"),
        "candidates": (_is_given("fit"), "--fit"),
        **dict.fromkeys(("draws", "seed"), (_has("fit_study"), "--fit-study")),
    },
    "execute": {
        **dict.fromkeys(
            ("node_rank", "rdzv_endpoint"), (lambda args: args.nnodes != 1, "--nnodes above 1")
        )
    },
}
"""By command and option: whether it has an effect, and what it has one with."""

ONE_OF: dict[str, tuple[str, ...]] = {
    "benchmark": ("planners", "execution", "unseen", "scripts"),
    "validate": (
        *("fit_frameworks", "fit_ap", "write_residuals", "fit", "attribute", "search"),
        *("fit_study", "leave_one_source_out", "worst"),
    ),
}
"""Options of a command that each ask for other work."""


def check_needs(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Raise `ParplanError` for an option that would have no effect, or that excludes another.

    `parser`: that of the command, which knows the defaults.
    """
    for name, (has_effect, others) in NEEDS.get(args.command, {}).items():
        if _given(parser, args, name) and not has_effect(args):
            raise ParplanError(f"{_option(name)}: has an effect only with {others}")
    asked = [name for name in ONE_OF.get(args.command, ()) if _given(parser, args, name)]
    if len(asked) > 1:
        raise ParplanError(f"{_option(asked[1])}: not together with {_option(asked[0])}")


def _given(parser: argparse.ArgumentParser, args: argparse.Namespace, name: str) -> bool:
    return bool(getattr(args, name) != parser.get_default(name))


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"
