"""Zero-bubble schedules: bubble rates from profiled times, throughput and memory, and the limit."""

from typing import Any

from matplotlib.axes import Axes

from parplan._strict import read_json
from parplan.experiments.cases.held_out import PAPERS
from parplan.experiments.reproduce.draw import COLOURS, panels, plain, scatter
from parplan.experiments.reproduce.experiment import Experiment, Result, Row, number, relative
from parplan.experiments.reproduce.published import VALIDATION_WORDS, of_groups, predicted
from parplan.sim.memory.peak import GB
from parplan.sim.programs.instructions import Schedule
from parplan.sim.schedules import PassTimes, make_schedule
from parplan.sim.schedules.zero_bubble import occupied_time, zero_bubble

LIMITS = {"ZB-1p": 1.0, "ZB-2p": 2.0}
"""Micro-batches' activations that a rank may hold, over the number of ranks."""


def _times(case: dict[str, Any]) -> PassTimes:
    return PassTimes(
        forward=case["forward_ms"],
        input_gradient=case["input_gradient_ms"],
        weight_gradient=case["weight_gradient_ms"],
        message=case["message_ms"],
    )


def _within(case: dict[str, Any], limit: float) -> Schedule:
    """The schedule that is found within `limit` x the ranks' micro-batches."""
    # What a weight gradient needs of a layer's activations: table 1 of the paper.
    h, a, s = case["hidden_size"], case["num_heads"], case["seq_len"]
    p, m = case["num_stages"], case["num_micro_batches"]
    share = 32 * h / (34 * h + 5 * a * s)
    return zero_bubble(p, m, times=_times(case), memory_limit=limit * p, weight_share=share)


def bubble_rate(schedule: Schedule, case: dict[str, Any]) -> float:
    """The paper's: of the longest time that a stage is occupied, what is not work."""
    times = _times(case)
    work = times.forward + times.input_gradient + times.weight_gradient
    cost = occupied_time(schedule, times)
    micro_batches: int = case["num_micro_batches"]
    return (cost - micro_batches * work) / cost


def _rates(cases: list[dict[str, Any]]) -> list[Row]:
    rows: list[Row] = []
    for case in cases:
        p, m = case["num_stages"], case["num_micro_batches"]
        for name in ("1F1B", "ZB-H1", "ZB-H2", *LIMITS):
            found = (
                _within(case, LIMITS[name]) if name in LIMITS else make_schedule(name.lower(), p, m)
            )
            rate = bubble_rate(found, case)
            known = case["bubble_rate"][name]
            rows.append(
                _row(f"{case['model']}, {m} micro-batches", name, "bubble rate", rate, known)
            )
    return rows


def _row(what: str, schedule: str, quantity: str, guess: float, known: float | None) -> Row:
    kind = "bubble" if quantity == "bubble rate" else quantity.split(" ")[0]
    row: dict[str, Any] = {
        "what": what,
        "schedule": schedule,
        "quantity": quantity,
        "predicted": guess,
        "published": known,
    }
    for name in ("step", "memory"):
        row[f"{name} error"] = relative(guess, known) if kind == name else None
    row["bubble difference"] = guess - known if kind == "bubble" and known is not None else None
    return row


def _runs(quick: bool) -> list[Row]:
    rows = []
    found = of_groups("zb")
    for outcome in predicted(found[::9] if quick else found):
        case = outcome.case
        what = (
            f"{case.model.name.removeprefix('GPT-')}, {case.parallel.n_microbatches} micro-batches"
        )
        name = str(case.parallel.schedule)
        rows.append(_row(what, name, "step [s]", outcome.step_s or 0.0, case.step_s))
        peak = (outcome.reported_bytes or 0.0) / GB
        known = (case.peak_memory_bytes or 0.0) / GB
        rows.append(_row(what, name, "memory [GB]", peak, known))
    return rows


def _curves(axes: Axes, cases: list[dict[str, Any]], quick: bool) -> None:
    """The bubble over the memory limit."""
    limits = [1.0, 1.5, 2.0, 3.0] if quick else [1.0 + i / 8 for i in range(17)]
    for case, colour in zip(cases, COLOURS, strict=False):
        rates = [bubble_rate(_within(case, limit), case) for limit in limits]
        label = f"{case['model']}, {case['num_micro_batches']} micro-batches"
        axes.plot(limits, [100 * rate for rate in rates], color=colour, label=label)
        known = [(LIMITS[n], 100 * case["bubble_rate"][n]) for n in LIMITS]
        axes.plot(*zip(*known, strict=True), "o", color=colour)
    axes.set_xlabel("memory limit [activations of one micro-batch x ranks]")
    axes.set_ylabel("bubble rate [%]")
    axes.set_ylim(0, None)
    axes.set_title("dots: published ZB-1p and ZB-2p", loc="left", fontsize=10)
    axes.legend(frameon=False, fontsize=8)
    plain(axes)


def _run(quick: bool) -> Result:
    tables: Any = read_json(PAPERS / "zero_bubble.json")
    cases = tables["cases"]
    small = [c for c in cases if c["num_stages"] <= 8]
    rates, runs = _rates(small[:2] if quick else cases), _runs(quick)
    figure, (left, middle, right) = panels(3, 5.0, 4.6)
    names = list(dict.fromkeys(str(row["schedule"]) for row in rates))
    for place, name in enumerate(names):
        own = [row for row in rates if row["schedule"] == name]
        x = [place + 0.04 * (i - len(own) / 2) for i in range(len(own))]
        left.plot(x, [100 * number(r, "published") for r in own], "o", color="#999999",
                  markersize=7, label="published" if place == 0 else None)  # fmt: skip
        left.plot(x, [100 * number(r, "predicted") for r in own], "x", color=COLOURS[0],
                  markersize=5, label="predicted" if place == 0 else None)  # fmt: skip
    left.set_xticks(range(len(names)), names)
    left.set_ylabel("bubble rate from profiled times [%]")
    left.legend(frameon=False, fontsize=8)
    plain(left)
    steps = [row for row in runs if row["quantity"] == "step [s]"]
    scatter(middle, [number(r, "predicted") for r in steps],
            [number(r, "published") for r in steps], "s")  # fmt: skip
    middle.set_title("steps of measured runs (table 4)", loc="left", fontsize=10)
    _curves(right, [c for c in small if c["num_micro_batches"] == 24], quick)
    apart = max(abs(number(row, "bubble difference")) for row in rates)
    found = (
        f"bubble rates from the paper's profiled times differ by {100 * apart:.2f} points at most"
    )
    return Result(rows=[*rates, *runs], figure=figure, findings=(found,))


EXPERIMENT = Experiment(
    question="How small do schedules that split the backward make the bubble, within what memory?",
    source="Qi et al. 2023, Zero Bubble Pipeline Parallelism, arXiv:2401.10241, tables 4, 5, 9",
    setup="GPT of 1.5, 6.2 and 14.6 billion on 8 and 16 A100. Bubble rates: from the times that "
    "the paper profiled. Steps and memory: from the model of the hardware.",
    published=f"experiments/papers/zero_bubble.json, {VALIDATION_WORDS}",
    run=_run,
    seconds=6,
)
