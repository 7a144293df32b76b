"""Wrong values at the public interface: always one `ParplanError` of one line, never another."""

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import parplan

JOB = parplan.Workload("gpt-tiny", seq_len=64, global_batch=8)
PLAN = parplan.Plan(data_parallel=2, num_micro_batches=4)
CLUSTER = "2xh100"


class _Odd:
    """What cannot be shown, is no path that has a name, and no number that has a value."""

    def __repr__(self) -> str:
        raise RuntimeError("has no words")

    def __fspath__(self) -> str:
        return 5  # type: ignore[return-value]

    def __float__(self) -> float:
        raise ValueError("has no value")

    __index__ = __float__  # type: ignore[assignment]


DEEP: list[Any] = []
for _ in range(3000):
    DEEP = [DEEP]

ODD: tuple[Any, ...] = (
    *(_Odd(), DEEP, 10**400, np.array([1, 2]), np.float64("nan"), "a\0\x1b[31m", int),
    *(None, 7, -1, 2.5, float("nan"), True, "", "nonsense", "no-such-file.json", "no-such.toml"),
    *(b"bytes", [], [1], {}, {"a": 1}, object(), ValueError("x"), len, Path(".")),
)

GOOD: dict[str, dict[str, Any]] = {
    "Workload": {"model": "gpt-tiny", "seq_len": 64, "global_batch": 8},
    "Plan": {"num_stages": 1},
    "cluster": {"given": CLUSTER},
    "model": {"given": "gpt-tiny"},
    "plan": {"workload": JOB, "cluster": CLUSTER},
    "simulate": {"workload": JOB, "cluster": CLUSTER, "plan": PLAN},
    "landscape": {"workload": JOB, "cluster": CLUSTER, "x": "num_stages=1"},
    "export": {"workload": JOB, "cluster": CLUSTER, "plan": PLAN, "to": "megatron"},
    "import_launch": {"file": "launch.sh", "source": "megatron", "on": CLUSTER},
    "register_planner": {"name": "annealing", "planner": len},
}
OPTIONAL: dict[str, tuple[str, ...]] = {
    "Workload": (
        *("precision", "tf32", "optimizer", "attention", "fused_norms", "dropout", "expert_load"),
        *("lora_rank", "framework", "software"),
    ),
    "Plan": (*parplan.Plan().to_json(), "zero_stage"),
    "plan": (
        *("planner", "budget", "space", "seed", "objective", "memory_ratio", "num_stages"),
        *("num_micro_batches", "activation_recomputation", "workers", "tokens", "split_layers"),
        *("executable", "ap_version", "straggler", "checkpoint_every", "dask"),
    ),
    "simulate": ("schedule", "slow", "fragmented_share"),
    "landscape": ("y", "metric", "around", "space", "memory_ratio", "tokens", "workers", "panels"),
    "import_launch": ("model", "set", "variable", "global_batch", "micro_batch", "seq_len"),
    "validate": ("group", "jobs"),
    "execute": ("processes", "plans", "repeats", "seed", "timeout_s"),
    "calibrate": ("path", "model", "seq_len", "processes", "quick", "budget_s"),
}

SURE: dict[str, tuple[tuple[str, Any], ...]] = {
    "validate": (
        *(("group", "nonsense"), ("group", 5), ("group", [3]), ("jobs", 0), ("jobs", "two")),
        ("jobs", 1.5),
    ),
    "execute": (
        *(("workload", "gpt-tiny"), ("workload", None), ("processes", 0), ("processes", "2")),
        *(("plans", "x"), ("plans", [3]), ("plans", 4), ("repeats", 0), ("seed", "x")),
        ("timeout_s", "long"),
    ),
    "calibrate": (
        *(("path", 3), ("path", "profile.txt"), ("model", "nonsense"), ("model", 3)),
        *(("seq_len", 0), ("seq_len", "x"), ("processes", 0), ("quick", "yes"), ("budget_s", "x")),
    ),
}
"""For functions that take long with a right value: values that are wrong for sure."""


def is_one_line(error: parplan.ParplanError) -> bool:
    return str(error) != "" and "\n" not in str(error)


def attempt(name: str, fields: dict[str, Any]) -> None:
    """Calls a public function; a `ParplanError` is as good as an answer."""
    with contextlib.suppress(parplan.ParplanError):
        getattr(parplan, name)(**fields)


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("parplan.experiments.arguments.dask.CONNECT_S", 0.01)


@pytest.mark.parametrize(
    ("name", "field"), [(name, field) for name, fields in GOOD.items() for field in fields]
)
def test_no_odd_value_of_what_is_needed_escapes(name: str, field: str) -> None:
    for value in ODD:
        attempt(name, {**GOOD[name], field: value})


@pytest.mark.parametrize(
    ("name", "field"),
    [(name, field) for name, fields in OPTIONAL.items() if name in GOOD for field in fields],
)
def test_no_odd_value_of_an_option_escapes(name: str, field: str) -> None:
    for value in ODD:
        if field == "dask" and isinstance(value, str | int | float):
            continue  # Addresses of schedulers: each would be looked for.
        attempt(name, {**GOOD[name], field: value})


@pytest.mark.parametrize("name", sorted({*GOOD, *SURE}))
def test_an_unknown_option_is_named(name: str) -> None:
    good = {"workload": JOB} if name == "execute" else GOOD.get(name, {})
    with pytest.raises(parplan.ParplanError, match="nonsense") as caught:
        getattr(parplan, name)(**good, nonsense=1)
    assert is_one_line(caught.value)


@pytest.mark.parametrize("name", ["Workload", "plan", "simulate", "landscape", "export"])
def test_what_is_missing_is_named(name: str) -> None:
    for field in GOOD[name]:
        fields = {key: value for key, value in GOOD[name].items() if key != field}
        with pytest.raises(parplan.ParplanError, match=field):
            getattr(parplan, name)(**fields)


@pytest.mark.parametrize(
    ("name", "field", "value"),
    [(name, *case) for name, cases in SURE.items() for case in cases],
)
def test_a_wrong_value_is_refused_before_anything_long_begins(
    name: str, field: str, value: Any
) -> None:
    good = {"workload": JOB} if name == "execute" else {}
    with pytest.raises(parplan.ParplanError) as caught:
        getattr(parplan, name)(**{**good, field: value})
    assert is_one_line(caught.value)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: parplan.Plan(tensor_paralel=2), "'tensor_paralel'; did you mean tensor_parallel"),
        (lambda: parplan.Plan(tensor_parallel="2"), "tensor_parallel: expected a whole number"),
        (lambda: parplan.Plan(recomputation="ful"), "unknown recomputation 'ful'; did you mean"),
        (lambda: parplan.Plan(zero_stage=4), "zero_stage: expected 0, 1, 2 or 3, got 4"),
        (lambda: parplan.Plan(zero_stage=3, distribute_param=False), "contradicts distribute_par"),
        (lambda: parplan.Plan(2), "nothing may be given without a name"),
        (
            lambda: parplan.Workload("llama3-8", seq_len=1, global_batch=1),
            "unknown model 'llama3-8'; did you mean llama3-8b",
        ),
        (
            lambda: parplan.Workload("gpt-tiny", seq_len=64, global_batch=8, framework="fused"),
            "framework: is part of the software: software='megatron' for fused",
        ),
        (lambda: parplan.cluster("8xh10"), "unknown cluster '8xh10'; did you mean"),
        (lambda: parplan.plan(JOB, CLUSTER, planner="anealing"), "did you mean annealing"),
        (lambda: parplan.plan(JOB, CLUSTER, memory_ration=90), "did you mean memory_ratio"),
        (lambda: parplan.plan(JOB, CLUSTER, memory_ratio=900), "at most 100 per cent, got 900"),
        (lambda: parplan.plan(JOB, CLUSTER, space="ap", budget=10), "^budget: needs planner"),
        (lambda: parplan.plan(JOB, CLUSTER, gap=100), "^gap: at least 0 and below 100 %, got 100%"),
        (lambda: parplan.plan("gpt-tiny", CLUSTER), "expected a parplan.Workload"),
        (lambda: parplan.simulate(JOB, CLUSTER, parplan.Plan(schedule="1f2b")), "1f1b"),
        (lambda: parplan.export(JOB, CLUSTER, PLAN, "megatro"), "did you mean megatron"),
        (lambda: parplan.landscape(JOB, CLUSTER, x="stages=1"), "^x: .*num_stages"),
        (lambda: parplan.landscape(JOB, CLUSTER, x="num_stages", metric="mfuu"), "mfu"),
        (lambda: parplan.import_launch("a", "megatro", CLUSTER), "did you mean megatron"),
    ],
)
def test_mistakes_name_what_is_allowed(call: Callable[[], object], said: str) -> None:
    with pytest.raises(parplan.ParplanError, match=said):
        call()
