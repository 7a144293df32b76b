"""Predictions with the largest errors, with their parts and assumptions."""

from collections.abc import Sequence

from parplan.experiments.cases.evaluate import Outcome
from parplan.experiments.output.tables import columns

HEADER = ("run", "model", "accelerators", "predicted", "measured", "error", "most of it", "assumed")

SHOWN = 20


def worst(outcomes: Sequence[Outcome], count: int = SHOWN) -> str:
    """A line for each of the `count` worst predicted steps, the worst first."""
    known = [o for o in outcomes if o.error is not None]
    known.sort(key=lambda o: (-_size(o), o.case.id))
    return columns([HEADER, *map(_row, known[:count])])


def _size(outcome: Outcome) -> float:
    """Size of an error, the same for a step that is predicted twice and half as long."""
    assert outcome.error is not None
    ratio = 1 + outcome.error
    return max(ratio, 1 / ratio)


def _row(outcome: Outcome) -> tuple[str, ...]:
    case, request = outcome.case, outcome.request
    assert request is not None
    assert outcome.error is not None
    most = sorted(outcome.shares.items(), key=lambda item: (-item[1], item[0]))[:2]
    return (
        case.id,
        case.model.name,
        f"{case.hardware.n_accelerators} {case.hardware.key}",
        f"{outcome.step_s:.2f} s",
        f"{case.step_s:.2f} s",
        f"{outcome.error:+.0%}",
        ", ".join(f"{name.replace('_', '-')} {share:.0%}" for name, share in most),
        "; ".join(request.assumed),
    )
