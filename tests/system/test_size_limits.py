"""Plans of the largest sizes work in bounded memory, or are refused in one line with the limit."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from parplan._files import MAX_FILE_BYTES, read_regular
from parplan.errors import ParplanError
from parplan.hardware.machines.presets import cluster_preset
from parplan.planners.search.budget import Budget
from parplan.planners.search.limits import MOST_RECORDED, check_record
from parplan.planners.spaces.constraints import Constraints
from parplan.planners.spaces.make import make_space
from parplan.sim.costs import StageCosts
from parplan.sim.engine.engine import simulate
from parplan.sim.fast.fast import fast_step_s
from parplan.sim.models.model import MOST_LAYERS, Model
from parplan.sim.models.parts import MOST_SIZE
from parplan.sim.plan import Plan
from parplan.sim.prediction.predict import compile_plan
from parplan.sim.schedules import CATALOGUE, MOST_ACTIONS, make_program, why_not
from parplan.sim.software.framework import NO_OVERHEAD
from parplan.sim.step.tape import lower
from parplan.sim.ticks import MOST_PS, PS_PER_S
from parplan.sim.workload import Workload

LAYERS = 1000
MODEL = {
    **{"name": "thousand", "num_layers": LAYERS, "hidden_size": 12288, "num_heads": 96},
    **{"num_kv_heads": 96, "ffn_size": 49152, "vocab_size": 50304, "mlp": "plain"},
    **{"norm": "layernorm", "bias": True, "tied_embeddings": False, "source": "made up"},
}

WORKS = """
import resource
from parplan.hardware.machines.presets import cluster_preset
from parplan.sim.models.model import Model
from parplan.sim.plan import Plan
from parplan.sim.prediction.predict import compile_plan, predict
from parplan.sim.workload import Workload
resource.setrlimit(resource.RLIMIT_AS, (3 << 30, 3 << 30))
plan = Plan(num_stages=10, num_micro_batches=10_000, data_parallel=1250, tensor_parallel=8,
            distribute_param=True, recomputation="full")
model = Model(**{model!r})
workload = Workload(model=model, seq_len=2048, global_batch=12_500_000)
run = predict(compile_plan(workload, cluster_preset("12500xdgx-h100"), plan))
assert 0 < run.step_s < 1e6, run.step_s
assert len(run.events) > 0
print(len(run.events), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


@pytest.mark.timeout(300)
def test_a_hundred_thousand_accelerators_in_three_gigabytes() -> None:
    """1,000 layers, 10,000 micro-batches, 100,000 accelerators."""
    code = WORKS.replace("{model!r}", repr(MODEL))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[0]) > 200_000


def test_what_is_larger_is_refused_before_memory_is_spent() -> None:
    model = Model(**MODEL)
    workload = Workload(model=model, seq_len=2048, global_batch=1_000_000, framework=NO_OVERHEAD)
    plan = Plan(num_stages=1000, num_micro_batches=10_000, data_parallel=100)
    with pytest.raises(ParplanError) as found:
        compile_plan(workload, cluster_preset("12500xdgx-h100"), plan)
    assert str(found.value) == (
        "1f1b: 1000 ranks x 10000 micro-batches x 1 virtual stages make 20,000,000 actions; "
        "at most 4,000,000 can be simulated"
    )
    with pytest.raises(ParplanError, match="num_layers: "):
        Model(**{**MODEL, "num_layers": MOST_LAYERS + 1})
    with pytest.raises(ParplanError, match="global_batch: must be at most"):
        Workload(model=model, seq_len=1, global_batch=10**12, framework=NO_OVERHEAD)
    with pytest.raises(ParplanError, match="unknown cluster"):
        cluster_preset("99999999xh100")


@pytest.mark.parametrize("name", CATALOGUE)
def test_every_schedule_has_the_limit(name: str) -> None:
    chunks = CATALOGUE[name].virtual_stages[0]
    count = MOST_ACTIONS // 100
    assert "can be simulated" in why_not(name, 100, count, chunks)
    with pytest.raises(ParplanError, match="can be simulated"):
        make_program(name, 100, count, chunks)


def test_a_space_of_large_plans_has_those_that_can_be_simulated() -> None:
    workload = Workload(
        model=Model(**MODEL), seq_len=2048, global_batch=100_000, framework=NO_OVERHEAD
    )
    allowed = Constraints(num_stages=(1, 1000), tensor_parallel=(8,), batch_per_device=(1,))
    space = make_space(workload, cluster_preset("1000xdgx-h100"), allowed)
    assert len(space) > 0
    assert all(2 * p.num_stages * p.num_micro_batches <= MOST_ACTIONS for p in space)


PAGE = (Path(__file__).parents[2] / "docs/reliability.md").read_text(encoding="utf-8")

LIMITS = {
    "forwards and backwards of all pipeline ranks of a schedule": "every_schedule_has_the_limit",
    "layers of a model": "a_model_of_the_most_layers",
    "every other size of a model, tokens of a sequence, sequences of a step": "the_largest_sizes",
    "a step": "a_step_of_53_days",
    "plans that a planner asks about, and holds (`--budget`)": "the_largest_budget",
    "a file that is read": "a_file_of_64_mib",
}
"""The test of each limit that the page has."""


def test_each_limit_of_the_page_has_its_test() -> None:
    table = PAGE.split("## Limits")[1].split("| what | at most |")[1].split("\n\n")[0]
    rows = re.findall(r"^\| ([^|]+?) \|", table, flags=re.MULTILINE)
    assert rows == list(LIMITS)
    assert all(callable(globals()[f"test_{name}"]) for name in LIMITS.values())


def test_a_model_of_the_most_layers() -> None:
    assert Model(**{**MODEL, "num_layers": MOST_LAYERS}).num_layers == MOST_LAYERS
    with pytest.raises(ParplanError, match="num_layers: "):
        Model(**{**MODEL, "num_layers": MOST_LAYERS + 1})


def test_the_largest_sizes() -> None:
    sizes = {"hidden_size": 96, "num_heads": 1, "ffn_size": 1, "vocab_size": 1, "num_kv_heads": 1}
    for name, step in sizes.items():
        most = MOST_SIZE // step * step
        with pytest.raises(ParplanError, match=f"{name}: "):
            Model(**{**MODEL, name: most + step})
    model = Model(**{**MODEL, "ffn_size": MOST_SIZE, "vocab_size": MOST_SIZE})
    for name in ("seq_len", "global_batch"):
        given = {"seq_len": 1, "global_batch": 1, name: MOST_SIZE}
        assert getattr(Workload(model=model, framework=NO_OVERHEAD, **given), name) == MOST_SIZE
        with pytest.raises(ParplanError, match=f"{name}: "):
            Workload(model=model, framework=NO_OVERHEAD, **{**given, name: MOST_SIZE + 1})


def test_a_step_of_53_days() -> None:
    program = make_program("gpipe", 1, 1)
    zero = {"input_gradient_s": 0.0, "weight_gradient_s": 0.0}

    def step_s(seconds: float) -> list[float]:
        costs = [StageCosts(forward_s=0.0, optimizer_s=seconds, **zero)]
        return [simulate(program, costs).step_s, fast_step_s(lower(program), costs)]

    almost = 0.99 * MOST_PS / PS_PER_S
    assert step_s(almost) == pytest.approx([almost] * 2, rel=1e-12)
    with pytest.raises(ParplanError, match="can be simulated"):
        step_s(MOST_PS / PS_PER_S)


def test_the_largest_budget() -> None:
    space = make_space(
        Workload(model=Model(**MODEL), seq_len=64, global_batch=8, framework=NO_OVERHEAD),
        cluster_preset("8xh100"),
        Constraints(tensor_parallel=(8,), num_stages=(1,), batch_per_device=(1,)),
    )
    check_record("random", space, Budget(evaluations=MOST_RECORDED))
    with pytest.raises(ParplanError, match="1,000,000"):
        check_record("random", space, Budget(evaluations=MOST_RECORDED + 1))


def test_a_file_of_64_mib(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    with path.open("wb") as file:
        file.truncate(MAX_FILE_BYTES)
    assert len(read_regular(path)) == MAX_FILE_BYTES
    with path.open("ab") as file:
        file.write(b" ")
    with pytest.raises(ParplanError, match=f"larger than the {MAX_FILE_BYTES} bytes that are read"):
        read_regular(path)
