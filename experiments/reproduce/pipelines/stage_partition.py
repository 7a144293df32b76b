"""Partitions of layers into stages: equal, PipeDream's, Alpa's, exact step times."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import combinations, pairwise

from parplan.experiments.reproduce.draw import COLOURS, panels, plain
from parplan.experiments.reproduce.experiment import Experiment, Result, Row, number, relative
from parplan.experiments.reproduce.published import FIGURES_WORDS, read_in_paper
from parplan.hardware.machines.presets import cluster_preset
from parplan.hardware.network.cluster import Cluster
from parplan.planners.algorithms.exact.split import balanced, improve_split
from parplan.planners.search.evaluator import Evaluator
from parplan.sim.models.model import model_preset
from parplan.sim.plan import Plan
from parplan.sim.software.framework import framework
from parplan.sim.workload import Workload

MODELS = ("gpt3-13b", "llama3-8b", "gemma2-9b", "mt-nlg-530b")
STAGES = (4, 8)
ENUMERATED = 4
"""Stages up to which every split is tried."""
WAYS = ("equal layers", "PipeDream, Alpa", "parplan", "every split tried")


def setting(model: str, stages: int) -> tuple[Workload, Cluster, Plan]:
    """A pipeline over nodes of 8 H100 with tensor parallelism within each of them."""
    count = 4 * stages
    workload = Workload(
        model=model_preset(model), seq_len=2048, global_batch=count, framework=framework("fused")
    )
    plan = Plan(
        num_stages=stages,
        tensor_parallel=8,
        sequence_parallel=True,
        num_micro_batches=count,
        recomputation="selective",
    )
    return workload, cluster_preset(f"{stages}xdgx-h100"), plan


def _splits(layers: int, stages: int) -> Iterator[tuple[int, ...]]:
    for cuts in combinations(range(1, layers), stages - 1):
        yield tuple(b - a for a, b in pairwise((0, *cuts, layers)))


def _fastest(ask: Evaluator, plan: Plan, layers: int) -> Plan:
    plans = [replace(plan, stage_layers=s) for s in _splits(layers, plan.num_stages)]
    return min(ask.many(plans), key=lambda trial: trial.step_s or float("inf")).plan


def _rows(model: str, stages: int, known: float | None, enumerate_all: bool) -> list[Row]:
    workload, cluster, plan = setting(model, stages)
    # Splits are compared by time alone: memory is not what the papers' programs look at.
    ask = Evaluator(workload, cluster, memory_ratio=1e6)
    found = {
        "equal layers": plan,
        "PipeDream, Alpa": balanced(workload, cluster, plan),
        "parplan": improve_split(workload, cluster, plan, memory_ratio=1e6).plan,
    }
    if enumerate_all:
        found["every split tried"] = _fastest(ask, plan, workload.model.num_layers)
    steps = {way: ask(one).step_s or float("nan") for way, one in found.items()}
    rows: list[Row] = []
    for way, one in found.items():
        speed = steps["equal layers"] / steps[way]
        value = known if way == "PipeDream, Alpa" else None
        rows.append(
            {
                "model": model,
                "stages": stages,
                "way": way,
                "layers of the stages": " ".join(
                    map(str, one.layers_of_stages(workload.model.num_layers))
                ),
                "predicted [s]": steps[way],
                "speed over equal layers": speed,
                "published speed": value,
                "error": relative(speed, value),
            }
        )
    return rows


def _run(quick: bool) -> Result:
    known = float(read_in_paper("alpa-stages")["gpt"])
    rows: list[Row] = []
    for model in MODELS[:2] if quick else MODELS:
        for stages in STAGES:
            layers = model_preset(model).num_layers
            every = stages <= ENUMERATED and layers <= 50 and not quick
            rows += _rows(model, stages, known if model.startswith("gpt3") else None, every)
    figure, (axes,) = panels(1, 10.0, 4.2)
    groups = list(dict.fromkeys((row["model"], row["stages"]) for row in rows))
    for place, (way, colour) in enumerate(zip(WAYS[1:], COLOURS, strict=False)):
        own = {(r["model"], r["stages"]): number(r, "speed over equal layers")
               for r in rows if r["way"] == way}  # fmt: skip
        at = [groups.index(group) + 0.25 * (place - 1) for group in own]
        axes.bar(at, [100 * (speed - 1) for speed in own.values()], 0.23, color=colour, label=way)
    axes.set_xticks(range(len(groups)), [f"{m}\n{s} stages" for m, s in groups])
    axes.set_ylabel("gain over equal layers [%]")
    axes.legend(frameon=False, ncols=2)
    plain(axes)
    return Result(rows=rows, figure=figure, findings=tuple(_findings(rows)))


def _findings(rows: Sequence[Row]) -> Iterator[str]:
    by = {(r["model"], r["stages"], r["way"]): number(r, "predicted [s]") for r in rows}
    proven = [key for key in by if key[2] == "every split tried"]
    if proven:
        equal = sum(by[key] == by[key[0], key[1], "parplan"] for key in proven)
        yield f"parplan finds the best of all splits in {equal} of {len(proven)} pipelines"
    yield "with as many accelerators on each stage, PipeDream's and Alpa's programs are the same"


EXPERIMENT = Experiment(
    question="How much does a pipeline gain when its layers are split by time, not by number?",
    source="Narayanan et al. 2019, PipeDream (SOSP), section 3.1; Zheng et al. 2022, Alpa, "
    "arXiv:2201.12023, sections 5.2 and 8.3",
    setup="Four models on 4 and 8 nodes of H100, a stage for each node, four micro-batches for "
    "each stage. PipeDream and Alpa: the split whose slowest stage is fastest. parplan: descent "
    "by simulated steps.",
    published=f"{FIGURES_WORDS}: for GPT, equal layers are as fast as Alpa's program. Its "
    "Wide-ResNet is no transformer and cannot be predicted",
    run=_run,
    seconds=22,
)
