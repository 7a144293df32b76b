"""Time and money of a whole training: `--tokens`, `--price-per-hour`, `--currency`."""

import argparse
from dataclasses import dataclass
from typing import Any

from parplan.experiments.arguments.numbers import amount
from parplan.planners.costs.objectives import HOUR_S, ObjectiveInputs, TrainingRun, training_s
from parplan.planners.costs.trial import Trial
from parplan.sim.plan import Plan

DAY_S = 24 * HOUR_S
BILLION = 1e9

PRICE = "--price-per-hour"


def add_money_arguments(parser: Any) -> None:
    """The arguments, for a parser or a group of one."""
    parser.add_argument(
        "--tokens",
        type=amount,
        metavar="N",
        help="tokens of the whole training, for example 3e11, 300B or 1.5T: adds its days and "
        "accelerator-hours",
    )
    parser.add_argument(
        PRICE,
        type=amount,
        metavar="P",
        help="price of one accelerator-hour: adds the cost, and that of 10^9 tokens",
    )
    parser.add_argument(
        "--currency",
        default="USD",
        metavar="NAME",
        help="of the price; only a word to print (default %(default)s)",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Bill:
    """What a training takes."""

    training_s: float | None
    """None where the number of tokens was not given."""
    accelerator_hours: float | None
    cost: float | None
    """None without tokens or a price."""
    cost_per_1e9_tokens: float | None
    currency: str

    def table(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "training_s": self.training_s,
            "accelerator_hours": self.accelerator_hours,
            "cost": self.cost,
            "cost_per_1e9_tokens": self.cost_per_1e9_tokens,
            "currency": self.currency,
        }


def bill_of(setting: ObjectiveInputs, step_s: float, currency: str) -> Bill | None:
    """What a training by steps of `step_s` takes; None where neither tokens nor price are known."""
    run, devices = setting.run, setting.cluster.num_accelerators
    whole_s, token_s = None, step_s / setting.workload.tokens
    if run.tokens is not None:
        whole_s = training_s(Trial(plan=Plan(), memory_bytes=(1.0,), step_s=step_s), setting)
        token_s = whole_s / run.tokens
    return _bill(whole_s, token_s, devices, run.price_per_hour, currency)


def bill_at(args: argparse.Namespace, devices: int, tokens_per_s: float) -> Bill | None:
    """What a training at so many tokens per second of `devices` takes; None as in `bill_of`.

    Raises `ParplanError` for a number of tokens or a price that is not positive.
    """
    run = TrainingRun(tokens=args.tokens, price_per_hour=args.price_per_hour)
    whole_s = None if run.tokens is None else run.tokens / tokens_per_s
    return _bill(whole_s, 1 / tokens_per_s, devices, run.price_per_hour, args.currency)


def _bill(
    whole_s: float | None, token_s: float, devices: int, price: float | None, currency: str
) -> Bill | None:
    """`token_s`: seconds of a token on all devices."""
    if whole_s is None and price is None:
        return None
    hours = None if whole_s is None else devices * whole_s / HOUR_S
    return Bill(
        training_s=whole_s,
        accelerator_hours=hours,
        cost=None if hours is None or price is None else hours * price,
        cost_per_1e9_tokens=None if price is None else BILLION * token_s * devices * price / HOUR_S,
        currency=currency,
    )


def training_line(args: argparse.Namespace, devices: int, tokens_per_s: float) -> str:
    """`bill_at` in one line; empty where there is none."""
    bill = bill_at(args, devices, tokens_per_s)
    return "" if bill is None else bill_text(bill.table())


def bill_text(bill: dict[str, Any]) -> str:
    """The table of a bill in one line."""
    said = []
    if bill["training_s"] is not None:
        said.append(
            f"{duration(bill['training_s'])}, {bill['accelerator_hours']:,.0f} device-hours"
        )
    if bill["cost"] is not None:
        said.append(f"{_money(bill['cost'])} {bill['currency']}")
    if bill["cost_per_1e9_tokens"] is not None:
        each = _money(bill["cost_per_1e9_tokens"])
        said.append(f"{each} {bill['currency']} per 10^9 tokens")
    return ", ".join(said)


def duration(seconds: float) -> str:
    """Days, or hours below one day, or minutes below one hour."""
    if seconds >= DAY_S:
        return f"{seconds / DAY_S:,.1f} days"
    return f"{seconds / HOUR_S:.1f} hours" if seconds >= HOUR_S else f"{seconds / 60:.1f} minutes"


def _money(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.2f}"
