"""Megatron-LM's figure of messages that tensor-parallel ranks share between them."""

from dataclasses import replace

from parplan.experiments.cases.read import Case
from parplan.experiments.cases.request import request_of
from parplan.experiments.reproduce.draw import COLOURS, curve, panels, plain
from parplan.experiments.reproduce.experiment import Experiment, Result, relative
from parplan.experiments.reproduce.megatron.published_runs import (
    ASSUMED,
    SOURCE,
    UNIT,
    gpt_run,
    tflop_per_s,
)
from parplan.experiments.reproduce.published import FIGURES_WORDS, read_in_paper
from parplan.sim.engine.engine import simulate
from parplan.sim.prediction.predict import compile_plan

CHUNKS = 2


def step_s(case: Case, shared: bool) -> float:
    """The step; unless `shared`, each tensor-parallel rank sends all of what it has."""
    request = request_of(case)
    compiled = compile_plan(request.workload, request.cluster, request.plan)
    times = 1 if shared else request.plan.tensor_parallel
    costs = [replace(cost, send_s=times * cost.send_s) for cost in compiled.costs]
    return simulate(compiled.schedule, costs).step_s


def _run(quick: bool) -> Result:
    known = read_in_paper("sc21-scatter-gather")
    batches = known["global_batch"][: 2 if quick else None]
    figure, (axes,) = panels(1, 6.5)
    rows = []
    for name, colour in zip(("without", "with"), COLOURS, strict=False):
        guesses = []
        for batch, value in zip(batches, known[name], strict=False):
            case = gpt_run(96, 12288, 96, 96, batch, tp=8, pp=12, vpp=CHUNKS)
            guess = tflop_per_s(case, step_s(case, name == "with"))
            guesses.append(guess)
            rows.append(
                {
                    "scatter/gather": name,
                    "batch": batch,
                    f"predicted [{UNIT}]": guess,
                    f"published [{UNIT}]": value,
                    "error": relative(guess, value),
                }
            )
        curve(axes, batches, guesses, known[name][: len(batches)], name, colour)
    axes.set_xlabel("global batch [sequences]")
    axes.set_ylabel(f"achieved [{UNIT}]")
    axes.set_ylim(0, None)
    axes.legend(frameon=False, loc="lower right")
    plain(axes)
    last = len(batches) - 1
    gain = rows[-1][f"predicted [{UNIT}]"] / rows[last][f"predicted [{UNIT}]"] - 1
    published = known["with"][last] / known["without"][last] - 1
    found = f"it gains {gain:+.0%} (published {published:+.0%}) at batch {batches[last]}"
    return Result(rows=rows, figure=figure, findings=(found,))


EXPERIMENT = Experiment(
    question="What does it gain that tensor-parallel ranks send a part each between stages?",
    source=f"{SOURCE}, figure 18",
    setup=f"GPT-3 175B on 96 A100, tensor 8, pipeline 12, {CHUNKS} chunks (assumed). {ASSUMED}. "
    "Messages run beside the computation; Megatron-LM then waited for each of them.",
    published=f"{FIGURES_WORDS}: read off the figure",
    run=_run,
    seconds=1,
)
