"""A measured step beside the prediction: what would close its gap does so in the model."""

import csv
from pathlib import Path

import pytest

from parplan.errors import ParplanError
from parplan.experiments.cli import main
from parplan.experiments.interop.gap import MeasuredSpeed, explanations
from parplan.hardware.machines.presets import cluster_preset
from parplan.sim.models.model import model_preset
from parplan.sim.plan import Plan
from parplan.sim.prediction.predict import compile_plan, predict
from parplan.sim.workload import Workload, with_software

CLUSTER = cluster_preset("16xh100")
WORKLOAD = Workload(
    model=model_preset("llama3-8b"), seq_len=8192, global_batch=64, software="megatron"
)
PLAN = Plan(
    num_micro_batches=8, data_parallel=8, tensor_parallel=2, sequence_parallel=True, zero_stage=1
)
PREDICTED_S = predict(compile_plan(WORKLOAD, CLUSTER, PLAN)).step_s


def test_time_rate_and_mfu_mean_the_same_step() -> None:
    peak = CLUSTER.accelerator.peak_flop_per_s.of("bf16")
    mfu = 100 * WORKLOAD.model_flops / (4.0 * 16 * peak)
    for measured in (
        MeasuredSpeed(step_s=4.0),
        MeasuredSpeed(tokens_per_s=WORKLOAD.tokens / 4.0),
        MeasuredSpeed(mfu=mfu),
    ):
        assert measured.seconds(WORKLOAD, CLUSTER) == pytest.approx(4.0)
    assert MeasuredSpeed().seconds(WORKLOAD, CLUSTER) is None


@pytest.mark.parametrize(
    ("measured", "message"),
    [
        (MeasuredSpeed(step_s=1.0, mfu=30.0), "give one of them"),
        (MeasuredSpeed(step_s=-1.0), "must be positive"),
        (MeasuredSpeed(mfu=140.0), "a percentage up to 100"),
    ],
)
def test_what_no_step_can_have_is_refused(measured: MeasuredSpeed, message: str) -> None:
    with pytest.raises(ParplanError, match=message):
        measured.seconds(WORKLOAD, CLUSTER)


def test_what_slowed_the_model_is_found_again() -> None:
    measured_s = predict(compile_plan(with_software(WORKLOAD, "pytorch"), CLUSTER, PLAN)).step_s
    found = explanations(WORKLOAD, CLUSTER, PLAN, PREDICTED_S, measured_s)
    exact = next(one for one in found if one.change == "--software pytorch")
    assert exact.step_s == measured_s
    assert exact.left(PREDICTED_S, measured_s) == 0


def test_changes_are_nearer_than_the_prediction_and_the_nearest_comes_first() -> None:
    for measured_s in (1.4 * PREDICTED_S, 0.8 * PREDICTED_S):
        found = explanations(WORKLOAD, CLUSTER, PLAN, PREDICTED_S, measured_s)
        left = [one.left(PREDICTED_S, measured_s) for one in found]
        assert found
        assert left == sorted(left)
        assert all(abs(one.step_s - measured_s) < abs(PREDICTED_S - measured_s) for one in found)
    slower = explanations(WORKLOAD, CLUSTER, PLAN, PREDICTED_S, 1.4 * PREDICTED_S)
    kernels = next(one for one in slower if one.cause == "kernels")
    assert kernels.step_s == pytest.approx(1.4 * PREDICTED_S, rel=0.01)
    assert {"kernels", "network", "software"} <= {one.cause for one in slower}


def test_the_command_says_where_a_measured_run_lies(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("ds.json").write_text(
        '{"train_micro_batch_size_per_gpu": 1, "gradient_accumulation_steps": 2, '
        '"bf16": {"enabled": true}, "zero_optimization": {"stage": 3}}'
    )
    arguments = ["import", "ds.json", "--from", "deepspeed", "--cluster", "8xh100"]
    arguments += ["--model", "llama3.2-1b", "--seq-len", "4096"]
    assert main([*arguments, "--measured-mfu", "10"]) == 0
    out = capsys.readouterr().out
    assert "MFU 10.0%" in out
    assert "longer than predicted" in out
    rows = list(csv.DictReader(Path("out/import/gap.csv").read_text().splitlines()))
    assert rows
    assert rows[0]["change"] in out
    assert main([*arguments, "--measured-mfu", "10", "--measured-step", "3"]) == 2
    assert "give one of them" in capsys.readouterr().err
