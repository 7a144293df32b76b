"""Constants of training software: strict reading, and that they only make a step longer."""

import dataclasses
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parplan._strict import read_toml
from parplan.errors import ParplanError
from parplan.experiments.cases.fit import CONSTANTS
from parplan.hardware.machines.presets import cluster_preset
from parplan.hardware.network.cluster import Cluster
from parplan.sim.models.model import MixtureOfExperts, Model
from parplan.sim.plan import Plan
from parplan.sim.prediction.predict import compile_plan, predict
from parplan.sim.software.framework import (
    FRAMEWORKS,
    LARGER_IS_BETTER,
    NO_OVERHEAD,
    Framework,
    framework,
)
from parplan.sim.workload import Workload

GROWING = [
    field.name
    for field in dataclasses.fields(Framework)
    if field.name not in ("name", "source", *LARGER_IS_BETTER)
]
"""Constants of which more makes a step longer; of the shares that are hidden it is less."""

MODEL = Model(
    name="small",
    num_layers=4,
    hidden_size=512,
    num_heads=8,
    num_kv_heads=8,
    ffn_size=2048,
    vocab_size=1000,
    mlp="gated",
    norm="rmsnorm",
    bias=False,
    tied_embeddings=False,
    moe=MixtureOfExperts(num_experts=4, top_k=2, ffn_size=1024, first_dense_layers=1),
    source="made up",
)
PLAN = Plan(num_stages=2, data_parallel=2, tensor_parallel=2, num_micro_batches=4)


@pytest.fixture(scope="module")
def cluster() -> Cluster:
    return cluster_preset("8xh100")


def step_s(cluster: Cluster, used: Framework) -> float:
    workload = Workload(model=MODEL, seq_len=512, global_batch=8, framework=used)
    return predict(compile_plan(workload, cluster, PLAN)).step_s


def test_every_shipped_framework_is_read_and_has_a_source() -> None:
    tables = read_toml(FRAMEWORKS)
    assert tables
    for name in tables:
        assert framework(name).source


def test_what_is_fitted_is_what_there_is() -> None:
    assert {constant.name for constant in CONSTANTS} == {
        *GROWING,
        "hidden_share",
    }  # and two that are not fitted


def written(tmp_path: Path, **changes: object) -> Path:
    table = {**dataclasses.asdict(NO_OVERHEAD), **changes}
    del table["name"]
    rows = [f"{key} = {value!r}" for key, value in table.items() if value is not None]
    path = tmp_path / "frameworks.toml"
    path.write_text("\n".join(["[own]", *rows]).replace("'", '"') + "\n")
    return path


def test_a_file_of_ones_own_is_read(tmp_path: Path) -> None:
    found = framework("own", written(tmp_path, step_s=0.25))
    assert found == dataclasses.replace(NO_OVERHEAD, name="own", step_s=0.25)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"typo_s": 1.0}, "unknown key 'typo_s'"),
        ({"step_s": None}, "missing key 'step_s'"),
        ({"step_s": "long"}, "step_s: expected float"),
        ({"step_s": -0.1}, "step_s: must not be negative"),
        ({"host_s_per_kernel": -1e-6}, "host_s_per_kernel: must not be negative"),
        ({"backward_host_share": -1.0}, "backward_host_share: must not be negative"),
        ({"message_s": -1e-6}, "message_s: must not be negative"),
        ({"expert_layer_s": -1e-6}, "expert_layer_s: must not be negative"),
        ({"kernel_slowdown": 0.0}, "kernel_slowdown: must be positive"),
        ({"hidden_share": 1.5}, "hidden_share: must be in [0, 1]"),
        ({"hidden_share": -0.5}, "hidden_share: must be in [0, 1]"),
        ({"tensor_hidden_share": 1.5}, "tensor_hidden_share: must be in [0, 1]"),
    ],
)
def test_a_malformed_table_is_named_by_file_and_key(
    changes: dict[str, object], message: str, tmp_path: Path
) -> None:
    path = written(tmp_path, **changes)
    with pytest.raises(ParplanError) as caught:
        framework("own", path)
    assert str(caught.value).startswith(f"{path}: own")
    assert message in str(caught.value)


def test_an_unknown_framework_suggests_a_known_one() -> None:
    with pytest.raises(ParplanError, match="unknown framework 'fusd'; did you mean fused"):
        framework("fusd")
    with pytest.raises(ParplanError, match="unknown framework 'own'"):
        framework("own", FRAMEWORKS)


def test_a_name_that_is_no_table_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "frameworks.toml"
    path.write_text("own = 3\n")
    with pytest.raises(ParplanError, match="own: expected a table"):
        framework("own", path)


@pytest.mark.parametrize("name", list(read_toml(FRAMEWORKS)))
def test_a_framework_makes_a_step_longer(name: str, cluster: Cluster) -> None:
    assert step_s(cluster, framework(name)) > step_s(cluster, NO_OVERHEAD)


@pytest.mark.parametrize("name", GROWING)
def test_every_constant_matters_where_the_host_is_slow(name: str, cluster: Cluster) -> None:
    slow = dataclasses.replace(
        NO_OVERHEAD, name="slow", host_s_per_kernel=2e-5, host_s_per_exchange=2e-5
    )
    if name == "kernel_slowdown":
        slow = NO_OVERHEAD
    more = dataclasses.replace(slow, **{name: 2 * getattr(slow, name) + 1e-3})
    assert step_s(cluster, more) > step_s(cluster, slow)


SIZES = st.floats(min_value=0, max_value=1e-3)


@settings(max_examples=25, deadline=None)
@given(
    start=st.tuples(*[SIZES for _ in GROWING]),
    name=st.sampled_from([*GROWING, "tensor_hidden_share"]),
    more=st.floats(min_value=0, max_value=1),
    hidden=st.floats(min_value=0, max_value=1),
)
def test_more_of_a_constant_never_makes_a_step_shorter(
    cluster: Cluster, start: tuple[float, ...], name: str, more: float, hidden: float
) -> None:
    fields = dict(zip(GROWING, start, strict=True))
    fields["kernel_slowdown"] += 1.0
    base = dataclasses.replace(NO_OVERHEAD, name="base", tensor_hidden_share=hidden, **fields)
    less = name == "tensor_hidden_share"
    value = hidden * (1 - more) if less else getattr(base, name) + more
    changed = dataclasses.replace(base, **{name: value})
    assert step_s(cluster, changed) >= step_s(cluster, base)
