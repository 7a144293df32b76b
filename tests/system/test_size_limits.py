"""Plans of the largest sizes work in bounded memory, or are refused in one line with the limit."""

import subprocess
import sys

import pytest

from parplan.errors import ParplanError
from parplan.hardware.machines.presets import cluster_preset
from parplan.planners.spaces.constraints import Constraints
from parplan.planners.spaces.make import make_space
from parplan.sim.models.model import MOST_LAYERS, Model
from parplan.sim.plan import Plan
from parplan.sim.prediction.predict import compile_plan
from parplan.sim.schedules import CATALOGUE, MOST_ACTIONS, make_program, why_not
from parplan.sim.software.framework import NO_OVERHEAD
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
    with pytest.raises(ParplanError, match=f"num_layers: must be at most {MOST_LAYERS}"):
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
