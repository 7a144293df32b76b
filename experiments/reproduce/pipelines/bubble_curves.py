"""The bubble of GPipe and PipeDream's 1F1B over the number of micro-batches."""

from parplan.experiments.reproduce.draw import COLOURS, panels, plain, sizes
from parplan.experiments.reproduce.experiment import Experiment, Result, Row, number, relative
from parplan.sim.costs import StageCosts
from parplan.sim.engine.engine import simulate
from parplan.sim.memory.moments import moments_of
from parplan.sim.memory.peak import StageNeeds, rank_memory
from parplan.sim.schedules import make_program

RANKS = 8
COSTS = StageCosts(forward_s=1.0, input_gradient_s=1.0, weight_gradient_s=1.0)
"""The backward takes twice as long as the forward; messages take no time."""

SCHEDULES = {"GPipe": ("gpipe", 1), "1F1B": ("1f1b", 1), "interleaved x 2": ("interleaved-1f1b", 2),
             "interleaved x 4": ("interleaved-1f1b", 4)}  # fmt: skip


def formula(micro_batches: int, chunks: int) -> float:
    """The bubble's share of the step: (p - 1) / (v m + p - 1)."""
    return (RANKS - 1) / (chunks * micro_batches + RANKS - 1)


def _costs(chunks: int) -> list[StageCosts]:
    one = StageCosts(
        forward_s=COSTS.forward_s / chunks,
        input_gradient_s=COSTS.input_gradient_s / chunks,
        weight_gradient_s=COSTS.weight_gradient_s / chunks,
    )
    return [one] * (RANKS * chunks)


def held(name: str, chunks: int, micro_batches: int) -> float:
    """Micro-batches whose activations the fullest rank holds at once."""
    needs = StageNeeds(
        parameter_bytes=0, gradient_bytes=0, optimizer_bytes=0, gathered_parameter_bytes=0,
        gathered_gradient_bytes=0, saved_bytes=1 / chunks, recomputed_bytes=0,
        recomputed_stage_bytes=0,
    )  # fmt: skip
    moments = moments_of(make_program(name, RANKS, micro_batches, chunks))
    return max(rank.activation_bytes for rank in rank_memory([needs] * RANKS * chunks, moments))


def _run(quick: bool) -> Result:
    counts = [8, 16, 32] if quick else [8, 16, 32, 64, 128, 256]
    figure, (left, right) = panels(2, 5.6)
    rows: list[Row] = []
    for (label, (name, chunks)), colour in zip(SCHEDULES.items(), COLOURS, strict=False):
        own: list[Row] = []
        for count in counts:
            run = simulate(make_program(name, RANKS, count, chunks), _costs(chunks))
            rate = formula(count, chunks)
            own.append(
                {
                    "schedule": label,
                    "micro-batches": count,
                    "predicted bubble": run.bubble,
                    "published bubble": rate,
                    "held micro-batches": held(name, chunks, count),
                    "error": relative(run.bubble, rate),
                }
            )
        rows += own
        # GPipe's and 1F1B's curves are the same.
        style = "--" if label == "1F1B" else "-"
        left.plot(counts, [100 * number(r, "predicted bubble") for r in own], style,
                  color=colour, label=f"{label}, simulated")  # fmt: skip
        left.plot(counts, [100 * number(r, "published bubble") for r in own], "o",
                  color=colour, markersize=8 if label == "GPipe" else 4)  # fmt: skip
        right.plot(counts, [number(r, "held micro-batches") for r in own], "o-", color=colour,
                   markersize=4, label=label)  # fmt: skip
    for axes in (left, right):
        sizes(axes, counts, f"micro-batches of {RANKS} ranks")
        axes.legend(frameon=False, fontsize=8)
        plain(axes)
    left.set_ylabel("bubble [% of the step]")
    left.set_ylim(0, None)
    left.set_title("dots: (p - 1) / (v m + p - 1)", loc="left", fontsize=10)
    right.set_ylabel("activations of the fullest rank [micro-batches]")
    right.set_yscale("log", base=2)
    right.set_yticks([8, 16, 32, 64, 128, 256][: len(counts)],
                     [str(c) for c in (8, 16, 32, 64, 128, 256)][: len(counts)])  # fmt: skip
    return Result(rows=rows, figure=figure)


EXPERIMENT = Experiment(
    question="How does the bubble fall with more micro-batches, and what do they cost in memory?",
    source="Huang et al. 2019, GPipe, arXiv:1811.06965, section 2.3; Narayanan et al. 2019, "
    "PipeDream (SOSP); Narayanan et al. 2021, arXiv:2104.04473, section 2.2",
    setup=f"{RANKS} equal stages, a backward of twice the forward, free messages.",
    published="the papers' formula (p - 1) / (v m + p - 1), with v chunks of each rank",
    run=_run,
    seconds=1,
)
