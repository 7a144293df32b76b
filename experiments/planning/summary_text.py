"""The table of `parplan.experiments.planning.summary` as lines for people."""

from collections.abc import Iterator
from typing import Any

from parplan.experiments.arguments.money import bill_text
from parplan.experiments.output.terminal import Style
from parplan.sim.memory.peak import GB

SHOWN = 3
"""Parts of the step that the bar has; what is left is one more."""

LEAST = 0.01
"""Smaller parts are left to that."""

WIDE = 64
"""Characters up to which what alternatives differ in is a column."""

LABEL = 10
"""Characters of the name of a line."""

Table = dict[str, Any]


def summary_lines(table: Table, style: Style, *, quiet: bool = False) -> Iterator[str]:
    """The lines; `quiet`: the plan and its step alone."""
    yield style.bold(table["text"])
    if quiet:
        yield step_text(table["predicted"])
        return
    yield ""
    rows = [
        ("job", _job(table["job"])),
        ("step", step_text(table["predicted"])),
        ("speed", speed_text(table["predicted"])),
        ("memory", memory_text(table["memory"])),
        *_time(table["time"], style),
    ]
    if table.get("training"):
        rows.append(("training", bill_text(table["training"])))
    rows += [("goal", line) for line in table["objective"]["lines"]]
    if table["objective"]["name"] == "step-time":
        rows.append(("binds", table["binds"].replace("memory binds: ", "memory: ", 1)))
    rows += [("stacks", line) for line in table.get("stacks") or ()]
    rows += [("search", search_text(table["search"])), ("close", table["close"])]
    for name, text in rows:
        yield f"{name:{LABEL}}{text}"
    if table["alternatives"]:
        yield ""
        yield from _alternatives(table["alternatives"])


def _job(job: Table) -> str:
    return (
        f"{job['model']} on {job['cluster']}: {job['global_batch']:,} sequences of "
        f"{job['seq_len']:,} tokens a step, {job['precision']}"
    )


def step_text(predicted: Table) -> str:
    """A predicted step, and within what like published runs were."""
    return seconds(predicted["step_s"]) + _interval(predicted["interval"])


def _interval(found: Table | None) -> str:
    if found is None:
        return ""
    scale, unit = (1.0, "s") if found["high_s"] >= 0.1 else (1e3, "ms")
    return (
        f" ({found['share_of_runs']:.0%} of like published runs: {found['low_s'] * scale:.3g} to "
        f"{found['high_s'] * scale:.3g} {unit}; n = {found['runs']})"
    )


def seconds(value: float) -> str:
    """A time of a step."""
    return f"{value:.3f} s" if value >= 0.1 else f"{value * 1e3:.3f} ms"


def speed_text(predicted: Table) -> str:
    """Tokens per second in all and per device, MFU and bubble."""
    each = predicted["tokens_per_s_per_accelerator"]
    return (
        f"{predicted['tokens_per_s']:,.0f} tokens/s, {each:,.0f} per device; "
        f"MFU {predicted['mfu']:.1%}, bubble {predicted['bubble']:.1%}"
    )


def memory_text(memory: Table) -> str:
    """The fullest device against what it has."""
    peaks = memory["peak_bytes_per_rank"]
    where = f" (rank {memory['fullest_rank']} of each pipeline)" if len(peaks) > 1 else ""
    return (
        f"{memory['peak_bytes'] / GB:.1f} of {memory['device_bytes'] / GB:.1f} GB "
        f"({memory['share']:.0%}) on the fullest device{where}; "
        f"a plan may use {memory['limit_bytes'] / GB:.1f} GB ({memory['limit_share']:.0%})"
        f"{'' if memory['verdict'] == 'fits' else '; ' + memory['verdict']}"
    )


def _time(parts: list[Table], style: Style) -> Iterator[tuple[str, str]]:
    """The bar, and its key below it."""
    named = [(one["part"], one["share"]) for one in parts if one["share"] >= LEAST][:SHOWN]
    rest = 1 - sum(share for _, share in named)
    if rest >= LEAST / 10:
        named.append(("other", rest))
    yield "time", style.bar([share for _, share in named])
    marks = (
        f"{style.part(i, style.mark(i))} {part} {share:.1%}"
        for i, (part, share) in enumerate(named)
    )
    yield "", "  ".join(marks)


def search_text(search: Table, *, found: bool = True) -> str:
    """Who searched, how much, and what is proven. `found`: whether there is a plan that fits."""
    said = f"{search['planner']}: "
    if search["planner"] == "exhaustive" and search["evaluated"] == search["candidates"]:
        said += f"all {search['candidates']:,} plans tried, {search['fitting']:,} fit in memory"
    else:
        bounds = f", {search['bounds']:,} bounds" if search["bounds"] else ""
        many = "s" * (search["evaluated"] != 1)
        said += (
            f"{search['evaluated']:,} evaluation{many}{bounds} of {search['candidates']:,} plans"
        )
    if search["stopped"] != "finished":
        said += f"; {search['stopped']}"
    if search["proven"]:
        return f"{said}; proven: no plan of the space {'is better' if found else 'fits'}"
    if search["gap"] is not None:
        return f"{said}; not proven: at most {search['gap']:.1%} can be gained (gap)"
    return said


def _alternatives(found: list[Table]) -> Iterator[str]:
    yield "nearest alternatives"
    pace = max(len(one["pace"]) for one in found)
    width = min(WIDE, max(len(one["differs"]) for one in found))
    for one in found:
        line = f"  {one['pace']:{pace}}  {one['differs']:{width}}  {one['reason']}"
        yield line.rstrip()
