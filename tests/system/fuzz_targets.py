"""What reads users' input, each as a function of a folder and of what draws the input.

A target returns whether the input was accepted; every result is checked for sense. Whatever else
than a `ParplanError` it raises is a mistake of parplan's.
"""

import contextlib
import functools
import io
import json
import math
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from parplan.errors import ParplanError
from parplan.experiments.arguments.workload import requested_cluster
from parplan.experiments.cases.read import read_cases
from parplan.experiments.cases.request import request_of
from parplan.experiments.interop.importers.imported import Given, finished
from parplan.experiments.interop.reading.sources import SOURCES
from parplan.hardware.machines.presets import cluster_preset
from parplan.hardware.network.cluster import Cluster
from parplan.planners.search.evaluator import Evaluator
from parplan.planners.spaces.constraints import read_constraints
from parplan.planners.spaces.make import make_space
from parplan.sim.models.find import find_model
from parplan.sim.models.model import model_preset
from parplan.sim.plan import Plan
from parplan.sim.plan_file import plan_table, read_plan
from parplan.sim.prediction.predict import compile_plan, predict
from parplan.sim.programs.instructions import read_program, without_communication, write_csv
from parplan.sim.programs.validate import check_program
from parplan.sim.schedules import CATALOGUE, make_program, why_not
from parplan.sim.software.framework import NO_OVERHEAD
from parplan.sim.workload import Workload
from tests.system.fuzz_commands import command_line
from tests.system.fuzz_documents import Draw, as_json, as_toml, broken, changed

ROOT = Path(__file__).parents[2]
GOLDEN = Path(__file__).parents[1] / "golden"
SMALL = Workload(model=model_preset("gpt-tiny"), seq_len=64, global_batch=16, framework=NO_OVERHEAD)
PLAN = Plan(
    num_stages=2, num_micro_batches=4, data_parallel=2, tensor_parallel=2, batch_per_device=2
)

Target = Callable[[Draw, Path], bool]


def check_step(workload: Workload, cluster: Cluster, plan: Plan) -> None:
    """The plan's prediction is one: finite, positive, and shorter than for ever."""
    compiled = compile_plan(workload, cluster, plan)
    assert all(math.isfinite(r.total_bytes) and r.total_bytes > 0 for r in compiled.memory)
    run = predict(compiled)
    assert math.isfinite(run.step_s), run.step_s
    assert run.step_s > 0, run.step_s
    assert -1e-9 <= run.bubble <= 1, run.bubble
    assert math.isfinite(workload.model_flops)
    assert workload.model_flops > 0


def _written(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8", errors="surrogatepass")
    return path


def _document(draw: Draw, document: Any, write: Callable[[Any], str], keep: tuple[str, ...]) -> str:
    text = write(changed(draw, document, keep))
    return broken(draw, text) if draw(st.integers(0, 9)) == 0 else text


def plans(draw: Draw, folder: Path) -> bool:
    """plan.json, and the prediction of it."""
    model = draw(st.sampled_from(["gpt-tiny", "llama2-7b", "mixtral-8x7b", "deepseek-v2-lite"]))
    workload = Workload(
        model=model_preset(model), seq_len=512, global_batch=16, framework=NO_OVERHEAD
    )
    table = json.loads(json.dumps(plan_table(PLAN, workload, "8xh100")))
    path = _written(folder, "plan.json", _document(draw, table, as_json, ("parplan_plan",)))
    plan, workload, cluster = read_plan(path)
    check_step(workload, cluster_preset(cluster), plan)
    return True


@functools.cache
def _toml(name: str) -> dict[str, Any]:
    return tomllib.loads((ROOT / name).read_text())


def clusters(draw: Draw, folder: Path) -> bool:
    """A cluster in TOML with its own node and accelerator."""
    name = draw(st.sampled_from(["h100-sxm", "a100-sxm-80gb", "mi250"]))
    known = _toml("hardware/machines/accelerators.toml")
    accelerator = known.get(name) or known["v100-sxm2-16gb"]
    nodes = _toml("hardware/machines/clusters.toml")["node"]
    node = nodes.get(accelerator.get("node")) or nodes["dgx-1-v100"]
    table = {
        "accelerator": {"mine": {**accelerator, "aliases": [], "node": "own"}},
        "node": {"own": {**node, "accelerator": "mine", "accelerators": 8}},
        "cluster": {"it": {"node": "own", "num_nodes": 2, "title": "It", "source": "a test"}},
    }
    for part in table["accelerator"]["mine"], table["node"]["own"]:
        part.pop("aliases", None)
    path = _written(folder, "cluster.toml", _document(draw, table, as_toml, ("source",)))
    with contextlib.redirect_stderr(io.StringIO()):
        cluster = requested_cluster(str(path))
    if cluster.num_accelerators == 16:
        check_step(SMALL, cluster, Plan(data_parallel=4, num_stages=2, tensor_parallel=2,
                                        num_micro_batches=2, batch_per_device=2))  # fmt: skip
    return True


def models(draw: Draw, folder: Path) -> bool:
    """A model in TOML."""
    names = ["llama3-8b", "mixtral-8x7b", "deepseek-v2-lite", "gpt-tiny"]
    known = {n: t for f in sorted((ROOT / "sim/models").glob("models*.toml"))
             for n, t in tomllib.loads(f.read_text()).items()}  # fmt: skip
    table = {"mine": known[draw(st.sampled_from(names))]}
    path = _written(folder, "model.toml", _document(draw, table, as_toml, ()))
    return _of_model(find_model(str(path)))


def _of_model(model: Any) -> bool:
    workload = Workload(model=model, seq_len=64, global_batch=16, framework=NO_OVERHEAD)
    assert math.isfinite(model.num_parameters)
    assert model.num_parameters > 0
    check_step(workload, cluster_preset("8xh100"), Plan(data_parallel=8, batch_per_device=2))
    return True


def configs(draw: Draw, folder: Path) -> bool:
    """config.json of Hugging Face."""
    golden = json.loads(draw(st.sampled_from(sorted((GOLDEN / "hf").glob("*.json")))).read_text())
    table = golden.get("config", golden)
    path = _written(folder, "config.json", _document(draw, table, as_json, ()))
    return _of_model(find_model(str(path)))


def schedules(draw: Draw, folder: Path) -> bool:
    """A schedule in CSV, played with a plan's costs."""
    names = [n for n in sorted(CATALOGUE) if not why_not(n, 2, 4, CATALOGUE[n].virtual_stages[0])]
    name = draw(st.sampled_from(names))
    chunks = CATALOGUE[name].virtual_stages[0]
    text = broken(draw, write_csv(make_program(name, 2, 4, chunks)))
    program = read_program(text)
    plan = Plan(num_stages=2, num_micro_batches=4, virtual_stages=chunks, schedule=name)
    if len(program) != 2:
        raise ParplanError("another number of ranks")
    two = not CATALOGUE[name].one_copy
    check_program(program, plan.total_stages, 4, bidirectional=two)
    workload = Workload(
        model=model_preset("llama2-7b"), seq_len=64, global_batch=4, framework=NO_OVERHEAD
    )
    compiled = compile_plan(workload, cluster_preset("2xh100"), plan)
    from parplan.sim.engine.engine import simulate
    from parplan.sim.fast.fast import fast_step_s
    from parplan.sim.step.tape import lower

    own = without_communication(program)
    run = simulate(own, compiled.costs)
    assert math.isfinite(run.step_s)
    assert run.step_s > 0
    assert fast_step_s(lower(own), compiled.costs) <= run.step_s
    return True


def cases(draw: Draw, folder: Path) -> bool:
    """A published or own run, as a line of JSON."""
    from tests.experiments.cases.published_cases import table

    text = _document(draw, table(), as_json, ())
    path = _written(folder, "cases.jsonl", text)
    for case in read_cases(path):
        assert case.step_s is None or case.step_s == case.step_s
        request = request_of(case)
        check_step(request.workload, request.cluster, request.plan)
    return True


SPACE = {
    "tensor_parallel": {"min": 1, "max": 4},
    "num_stages": [1, 2],
    "schedule": ["1f1b", "gpipe"],
    "recomputation": ["none", "full"],
    "zero_stage": [0, 1],
    "batch_per_device": {"max": 2},
    "memory_ratio": 0.5,
    "sequence_parallel": [True],
    "gradient_dtype": ["as computed"],
    "offload_optimizer": [False],
    "recomputed_layers": [1],
}


def spaces(draw: Draw, folder: Path) -> bool:
    """Constraints in TOML, and some plans of their space."""
    path = _written(folder, "space.toml", _document(draw, SPACE, as_toml, ()))
    constraints = read_constraints(path)
    cluster = cluster_preset("8xh100")
    space = make_space(SMALL, cluster, constraints)
    assert len(space) > 0
    ratio = constraints.memory_ratio
    evaluate = Evaluator(SMALL, cluster, memory_ratio=ratio, space=space)
    number = draw(st.integers(0, len(space) - 1))
    for trial in evaluate.many([space[number]]):
        if trial.fits:
            assert trial.step_s is not None
            assert math.isfinite(trial.step_s)
            assert trial.step_s > 0
            assert max(trial.memory_bytes) <= ratio * cluster.accelerator.memory_bytes
    return True


def imports(draw: Draw, folder: Path) -> bool:
    """Launches of other software."""
    files = [p for p in sorted((GOLDEN / "interop").rglob("*")) if p.is_file()]
    kinds = {".sh": "megatron", ".toml": "torchtitan", ".json": "deepspeed", ".yaml": "accelerate"}
    known = [p for p in files if kinds.get(p.suffix) in SOURCES and "bridge" not in str(p)]
    path = draw(st.sampled_from(known))
    text = path.read_text()
    if path.suffix == ".json" and draw(st.booleans()):
        with contextlib.suppress(json.JSONDecodeError):  # comments, or a script's variables
            text = as_json(changed(draw, json.loads(text)))
    elif path.suffix == ".toml" and draw(st.booleans()):
        text = as_toml(changed(draw, tomllib.loads(text)))
    else:
        text = broken(draw, text)
    given = Given(
        devices=8,
        model=model_preset("llama2-7b"),
        seq_len=512,
        global_batch=16,
        micro_batch=None,
        vocab_size=None,
        variables={},
    )
    settings = SOURCES[kinds[path.suffix]](text, path.name, given)
    plan, workload = finished(settings, given, {}, path.name)
    check_step(workload, cluster_preset("8xh100"), plan)
    return True


def commands(draw: Draw, folder: Path) -> bool:
    """Command lines, legal but for two words at most."""
    return command_line(draw, folder, json.loads(json.dumps(plan_table(PLAN, SMALL, "8xh100"))))


TARGETS: dict[str, Target] = {
    target.__name__: target
    for target in (
        *(plans, clusters, models, configs, schedules, cases, spaces, imports, commands),
    )
}
