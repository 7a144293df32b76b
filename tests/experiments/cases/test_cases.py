"""Published runs are read with every mistake named by file, line and key."""

import json
from pathlib import Path

import pytest

from parplan.errors import ParplanError
from parplan.experiments.cases.read import read_cases
from tests.experiments.cases.published_cases import case, table, write_cases


def refusal(path: Path) -> str:
    with pytest.raises(ParplanError) as caught:
        read_cases(path)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_cases_are_read_in_order_and_empty_lines_are_skipped(tmp_path: Path) -> None:
    lines = [json.dumps(table(id=name)) for name in ("one", "two")]
    path = tmp_path / "cases.jsonl"
    path.write_text(f"{lines[0]}\n\n  \n{lines[1]}")
    assert [case.id for case in read_cases(path)] == ["one", "two"]


@pytest.mark.parametrize("line", ["{", "not JSON", '{"id": }', "[" * 100_000])
def test_a_line_that_is_no_json_is_named(line: str, tmp_path: Path) -> None:
    path = tmp_path / "cases.jsonl"
    path.write_text(f"{json.dumps(table())}\n{line}\n")
    assert refusal(path).startswith(f"{path}: line 2: not valid JSON")


@pytest.mark.parametrize("line", ["[]", "3", "null", '"text"'])
def test_a_line_that_is_no_object_is_named(line: str, tmp_path: Path) -> None:
    path = tmp_path / "cases.jsonl"
    path.write_text(line)
    assert refusal(path).startswith(f"{path}: line 1: expected an object")


REQUIRED = ("id", "group", "source_where", "precision", "quality", "complete", "core")


@pytest.mark.parametrize("key", [*REQUIRED, "model", "hardware", "parallel", "measured"])
def test_a_missing_key_is_named(key: str, tmp_path: Path) -> None:
    broken = table()
    del broken[key]
    path = write_cases(tmp_path / "cases.jsonl", table(), broken)
    assert refusal(path).startswith(f"{path}: line 2: {key}: expected")


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"id": 3}, "id: expected str"),
        ({"task": 3}, "task: expected str"),
        ({"core": 1}, "core: expected bool"),
        ({"model": [4]}, "model: expected an object"),
        ({"model__layers": "many"}, "model.layers: expected int"),
        ({"model__layers": 4.5}, "model.layers: expected int"),
        ({"model__moe": {"experts": 8, "topk": 2}}, "model.moe: missing key 'moe_ffn'"),
        ({"model__moe": 8}, "model.moe: expected a table"),
        ({"hardware__n_accelerators": "8"}, "hardware.n_accelerators: expected int"),
        ({"hardware__key": None}, "hardware: missing key 'key'"),
        ({"parallel__sp": "yes"}, "parallel.sp: expected bool"),
        ({"parallel__tp": True}, "parallel.tp: expected int"),
        ({"measured__step_time_s": "fast"}, "measured.step_time_s: expected float"),
        ({"measured__step_time_s": float("nan")}, "not valid JSON: NaN is no number of JSON"),
        ({"measured__oom": 1}, "measured.oom: expected bool"),
    ],
)
def test_a_wrong_value_is_named(change: dict[str, object], where: str, tmp_path: Path) -> None:
    path = write_cases(tmp_path / "cases.jsonl", table(**change))
    assert refusal(path).startswith(f"{path}: line 1: {where}")


def test_what_is_not_needed_is_ignored() -> None:
    plain = case()
    assert case(trial="Trial 1", model__shape_source="a file", parallel__dp_note=4) == plain
    assert case(model__head_dim=None, parallel__ep=None) == plain


def test_whole_numbers_may_be_written_with_a_point() -> None:
    assert case(model__layers=4.0, parallel__global_batch=32.0) == case()


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    assert "cannot be read" in refusal(tmp_path / "none.jsonl")
    (tmp_path / "bytes.jsonl").write_bytes(b"\xff\xfe")
    assert "not UTF-8" in refusal(tmp_path / "bytes.jsonl")


STEP_S = 0.25
SEQUENCES, TOKENS, DEVICES = 32, 32 * 1024, 8


@pytest.mark.parametrize(
    "measured",
    [
        {"step_time_s": STEP_S},
        {"tokens_per_s": TOKENS / STEP_S},
        {"tokens_per_s_per_gpu": TOKENS / STEP_S / DEVICES},
        {"samples_per_s": SEQUENCES / STEP_S},
        {"samples_per_s_per_gpu": SEQUENCES / STEP_S / DEVICES},
        # What the source prints as a time goes before what it prints as a rate.
        {"step_time_s": STEP_S, "tokens_per_s": 1.0, "samples_per_s": 1.0},
    ],
)
def test_the_step_follows_from_each_kind_of_throughput(measured: dict[str, float]) -> None:
    assert case(measured=measured).step_s == pytest.approx(STEP_S, rel=1e-12)


def test_a_derived_step_is_taken_where_nothing_else_is_known() -> None:
    derived = {"step_time_s_from_tflops": 0.75}
    assert case(measured={}, derived=derived).step_s == 0.75
    assert case(derived=derived).step_s == 0.5
    no_batch = case(measured={"tokens_per_s": 1.0}, parallel__global_batch=None, derived=derived)
    assert no_batch.step_s == 0.75
    assert case(measured={}).step_s is None


def test_peak_memory_is_read_in_either_unit() -> None:
    assert case(measured={"peak_memory_gb": 40}).peak_memory_bytes == 40e9
    assert case(measured={"peak_memory_gib": 40}).peak_memory_bytes == 40 * 2**30
    assert case().peak_memory_bytes is None
