"""The memory of model states under the stages of ZeRO."""

from dataclasses import replace
from typing import Any

from parplan.experiments.reproduce.draw import COLOURS, WRITTEN, panels, plain, sizes
from parplan.experiments.reproduce.experiment import Experiment, Result, Row, relative
from parplan.experiments.reproduce.published import FIGURES_WORDS, read_in_paper
from parplan.sim.memory.peak import GB, StageNeeds, stage_needs
from parplan.sim.models.model import Model
from parplan.sim.plan import Plan, zero_fields
from parplan.sim.software.framework import NO_OVERHEAD
from parplan.sim.workload import Workload

NAMES = {
    "parameter": "parameters",
    "gradient": "gradients",
    "optimizer": "optimizer state",
}
PARTS = tuple(NAMES)
GATHERED = (
    "the paper counts states alone; a layer that is gathered for its computation comes on top "
    "(in stage 2 its gradients)"
)


def _gpt(parameters: float) -> Model:
    """A GPT of about so many parameters, with a small vocabulary."""
    hidden = 4096 if parameters < 1e10 else 12288 if parameters < 5e11 else 25600
    layers = round(parameters / (12 * hidden**2))
    return Model(
        name=f"gpt-{parameters / 1e9:g}b",
        num_layers=layers,
        hidden_size=hidden,
        num_heads=hidden // 128,
        num_kv_heads=hidden // 128,
        ffn_size=4 * hidden,
        vocab_size=1024,
        mlp="plain",
        norm="layernorm",
        bias=True,
        tied_embeddings=True,
        source="layers chosen to have the paper's number of parameters",
    )


def state(parameters: float, replicas: int, stage: int) -> StageNeeds:
    """Memory of one device, scaled to exactly the given number of parameters."""
    model = _gpt(parameters)
    workload = Workload(
        model=model, seq_len=1024, global_batch=replicas, precision="fp16", framework=NO_OVERHEAD
    )
    plan = Plan(data_parallel=replicas, **zero_fields(stage))  # type: ignore[arg-type]
    (needs,) = stage_needs(workload, plan)
    scale = parameters / model.num_parameters
    names = [f"{part}_bytes" for part in PARTS]
    return replace(needs, **{name: scale * getattr(needs, name) for name in names})


def _held_gb(needs: StageNeeds) -> float:
    held: float = sum(getattr(needs, f"{part}_bytes") for part in PARTS)
    return held / GB


def _row(where: str, parameters: float, replicas: int, stage: int, known: float) -> Row:
    needs = state(parameters, replicas, stage)
    held = _held_gb(needs)
    return {
        "where": where,
        "parameters": f"{parameters / 1e9:g} billion",
        "replicas": replicas,
        "stage": stage,
        "predicted [GB]": held,
        "published [GB]": known,
        "layer that is gathered [GB]": (
            needs.gathered_parameter_bytes + needs.gathered_gradient_bytes
        )
        / GB,
        "error": relative(held, known),
    }


def _run(quick: bool) -> Result:
    bars, table = read_in_paper("zero-memory")["values"], read_in_paper("zero-memory-table")
    rows = [_row("figure 1", 7.5e9, 64, int(stage), known) for stage, known in bars.items()]
    entries: list[dict[str, Any]] = table["entries"][: 3 if quick else None]
    rows += [_row("table 1", e["parameters"], e["replicas"], e["stage"], e["value"])
             for e in entries]  # fmt: skip
    figure, (left, right) = panels(2, 6.0)
    for stage in range(4):
        memory, bottom = state(7.5e9, 64, stage), 0.0
        for part, colour in zip(PARTS, COLOURS, strict=False):
            height = getattr(memory, f"{part}_bytes") / GB
            left.bar(stage, height, 0.6, bottom=bottom, color=colour,
                     label=f"{NAMES[part]}, predicted" if stage == 0 else None)  # fmt: skip
            bottom += height
    left.plot([int(s) for s in bars], list(bars.values()), "k_", markersize=28, label="published")
    left.set_xticks(range(4), ["none", "ZeRO-1", "ZeRO-2", "ZeRO-3"])
    left.set_ylabel("model states per device [GB]")
    left.set_title("7.5 billion parameters, 64 replicas", loc="left", fontsize=10)
    counts = [1, 4, 16, 64] if quick else [1, 4, 16, 64, 256, 1024]
    for stage, colour in zip((0, 1, 2, 3), COLOURS, strict=False):
        held = [_held_gb(state(7.5e9, n, stage)) for n in counts]
        right.plot(counts, held, "o-", color=colour, markerfacecolor="white", markersize=5,
                   label=f"ZeRO-{stage}" if stage else "none")  # fmt: skip
    right.set_yscale("log")
    right.yaxis.set_major_formatter(WRITTEN)
    sizes(right, counts, "replicas")
    right.set_ylabel("model states per device [GB]")
    right.set_title("7.5 billion parameters, predicted", loc="left", fontsize=10)
    for axes in (left, right):
        axes.legend(frameon=False, fontsize=8)
        plain(axes)
    return Result(rows=rows, figure=figure, findings=(GATHERED,))


EXPERIMENT = Experiment(
    question="How much memory do the stages of ZeRO save?",
    source="Rajbhandari et al. 2020, ZeRO, arXiv:1910.02054, figure 1 and table 1",
    setup="GPT models with Adam in mixed precision; states alone, no activations. States are "
    "scaled to the paper's number of parameters.",
    published=FIGURES_WORDS,
    run=_run,
    seconds=1,
)
