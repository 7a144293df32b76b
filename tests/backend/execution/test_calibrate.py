"""`parplan calibrate`: real measurements on two processes, interrupted and resumed."""

import dataclasses
import os
import signal
import statistics
from pathlib import Path

import pytest

from parplan.backend.calibration.calibrate import is_whole, profile_of, timing_of
from parplan.backend.calibration.grid import (
    LAYERS,
    RECOMPUTATIONS,
    CalibrationSettings,
    grid,
    micro_batches,
)
from parplan.backend.calibration.partial_file import PartialFile, read_partial
from parplan.errors import ParplanError
from parplan.experiments.cli import main
from parplan.hardware.estimates.profile import CollectiveCall, Machine, Profile
from parplan.hardware.estimates.profile_file import read_profile
from parplan.hardware.kernels.kernel import Gemm
from parplan.sim.models.model import model_preset
from tests.commands import all_gone, parplan, start, wait_for, workers

pytestmark = pytest.mark.timeout(280)

QUICK = ("calibrate", "--quick", "--processes", "2", "--seq-len", "16", "--budget-s", "1")

SETTINGS = CalibrationSettings(
    model=dataclasses.replace(model_preset("gpt-tiny"), num_layers=1),
    seq_len=16,
    processes=2,
    grid="quick",
)

MACHINE = Machine(
    device="some processor",
    device_kind="cpu",
    num_processes=2,
    cores=2,
    threads_per_process=1,
    memory_bytes=2**33,
    backend="gloo",
    torch="2.13.0",
    python="3.11.7",
)


def check_complete(profile: Profile) -> None:
    """Everything of the grid was measured, in both sittings."""
    wanted = grid(SETTINGS, "cpu")
    assert profile.machine.num_processes == 2
    assert {m.collective for m in profile.collectives} == {
        item for item in wanted if isinstance(item, CollectiveCall)
    }
    kernels = {m.kernel for m in profile.kernels}
    assert len(kernels) + len(profile.collectives) + 1 == len(wanted)
    assert kernels <= set(wanted)
    assert profile.optimizer is not None
    assert len(profile.layers) == len(micro_batches(SETTINGS, "cpu")) * len(RECOMPUTATIONS) * len(
        LAYERS
    )
    assert all(m.timing.samples >= 4 for m in profile.kernels)


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("calibrate")
    done = parplan(*QUICK, "--plots", "plots", cwd=folder, timeout_s=200)
    assert done.returncode == 0, done.stderr
    return folder, done.stdout


def test_everything_of_the_grid_is_in_the_profile(calibrated: tuple[Path, str]) -> None:
    profile = read_profile(calibrated[0] / "profile.json")
    check_complete(profile)
    assert is_whole(profile, SETTINGS, profile.machine)
    assert not is_whole(dataclasses.replace(profile, layers=()), SETTINGS, profile.machine)
    assert not is_whole(profile, SETTINGS, dataclasses.replace(profile.machine, cores=99))
    assert not is_whole(profile, dataclasses.replace(SETTINGS, grid="full"), profile.machine)


def test_the_summary_shows_what_the_profile_holds(calibrated: tuple[Path, str]) -> None:
    profile = read_profile(calibrated[0] / "profile.json")
    best = max(m.kernel.flops / m.timing.seconds for m in profile.kernels if m.kernel.flops)
    rows = dict(line.split("  ", 1) for line in calibrated[1].splitlines())
    assert f"{best / 1e9:,.1f} GFLOP/s at best" in rows["gemm fp32"]
    noise = statistics.median(m.timing.spread_s / m.timing.seconds for m in profile.kernels)
    assert f"noise {noise:.1%} (median)" in rows["kernels"]


def test_nothing_but_the_profile_and_the_pictures_is_left(calibrated: tuple[Path, str]) -> None:
    assert {path.name for path in calibrated[0].iterdir()} == {"profile.json", "plots"}
    assert {path.name for path in (calibrated[0] / "plots").iterdir()} == {
        *("bus-bandwidth.png", "model.png", "roofline.png"),
        "manifest.json",
    }


def num_rounds(partial: Path) -> int:
    return partial.read_text().count('"kind": "round"') if partial.exists() else 0


@pytest.mark.long
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_calibration_can_be_resumed(
    tmp_path: Path, how: signal.Signals, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.chdir(tmp_path)
    partial = Path("profile.partial.jsonl")
    command = start(*QUICK[:-1], "1000", cwd=tmp_path)
    try:
        wait_for(lambda: num_rounds(partial) >= 1, within_s=240)
        mine = workers(command.pid)
        command.send_signal(how)
        _, err = command.communicate(timeout=120)
    finally:
        command.kill()  # Its workers end when it is gone.
    wait_for(lambda: all_gone(mine), within_s=60)
    assert len(mine) >= 2
    assert not (tmp_path / "profile.json").exists()
    if how == signal.SIGINT:
        assert command.returncode == 130
        *_, kept, last = err.splitlines()
        assert kept.startswith("parplan: what was measured is in profile.partial.jsonl")
        assert last == "parplan: interrupted"
        return
    for changed, message in (
        (("--seq-len", "32"), "begun with seq_len 16, now asked for 32"),
        (("--model", "llama2-7b"), "begun with model gpt-tiny, now asked for llama2-7b"),
    ):
        assert main([*QUICK, *changed, "--resume"]) == 2
        assert (
            capsys.readouterr().err.splitlines()[-1] == f"parplan: error: {partial.name}: {message}"
        )
    before = num_rounds(partial)
    done = parplan(*QUICK, "--resume", cwd=tmp_path, timeout_s=200)
    assert done.returncode == 0, done.stderr
    profile = read_profile(tmp_path / "profile.json")
    check_complete(profile)
    assert all(m.timing.samples >= before + 4 for m in profile.kernels)
    assert not partial.exists()


def test_with_nothing_to_resume_it_starts(tmp_path: Path) -> None:
    assert read_partial(tmp_path / "p.partial.jsonl", MACHINE, SETTINGS) == []


def test_another_machine_is_not_mixed_in(tmp_path: Path) -> None:
    partial = PartialFile(tmp_path / "p.json", MACHINE, SETTINGS)
    partial.begin([])
    assert read_partial(partial.path, MACHINE, SETTINGS) == []
    other = dataclasses.replace(MACHINE, torch="2.12.0")
    with pytest.raises(ParplanError, match=r"another machine: torch: '2\.13\.0', here"):
        read_partial(partial.path, other, SETTINGS)


def test_a_line_that_was_cut_off_is_left_out(tmp_path: Path) -> None:
    partial = PartialFile(tmp_path / "p.json", MACHINE, SETTINGS)
    partial.begin([])
    seconds = [None, *[1.0] * (len(grid(SETTINGS, "cpu")) - 1)]
    line = {"kind": "round", "sitting": 0, "elapsed_s": 1.0, "seconds": seconds}
    partial.add(line)
    partial.add(line)
    whole = partial.path.read_text()
    partial.path.write_text(whole[:-10])
    assert read_partial(partial.path, MACHINE, SETTINGS) == [line]
    partial.begin([{**line, "kind": "rumour"}])
    with pytest.raises(ParplanError, match="line 2: kind: 'rumour' is not one of"):
        read_partial(partial.path, MACHINE, SETTINGS)


@pytest.mark.parametrize("kind", ["cpu", "cuda"])
@pytest.mark.parametrize("size", ["quick", "full"])
@pytest.mark.parametrize("processes", [1, 2, 3, 8])
def test_a_grid_names_everything_once(kind: str, size: str, processes: int) -> None:
    settings = dataclasses.replace(SETTINGS, grid=size, processes=processes)
    items = grid(settings, kind)
    assert items == grid(settings, kind)
    assert len(set(items)) == len(items)
    collectives = [item for item in items if isinstance(item, CollectiveCall)]
    assert {c.num_ranks for c in collectives} == {
        n for n in (2, 4, 8, processes) if 1 < n <= processes
    }
    assert all(c.num_bytes % (4 * c.num_ranks) == 0 for c in collectives)
    products = [item for item in items if isinstance(item, Gemm)]
    assert {p.transposed for p in products if p.dtype == "fp8"} <= {"TN"}


def test_noise_is_that_between_samples_or_between_sittings() -> None:
    steady = timing_of([(0, 1.0), (0, 1.0), (1, 1.0), (1, 1.0)])
    assert steady is not None
    assert (steady.seconds, steady.spread_s, steady.samples) == (1.0, 0.0, 4)
    drifting = timing_of([(0, 1.0)] * 9 + [(1, 2.0)])
    assert drifting is not None
    assert (drifting.seconds, drifting.spread_s) == (1.0, 0.5)
    scattered = timing_of([(0, float(i)) for i in range(1, 6)] + [(1, None)])
    assert scattered is not None
    assert (scattered.seconds, scattered.spread_s, scattered.samples) == (3.0, 1.0, 5)
    assert timing_of([(0, None)]) is None


def test_what_could_not_be_measured_is_left_out() -> None:
    items = grid(SETTINGS, "cpu")
    seconds = [None if i % 2 else 1.0 for i in range(len(items))]
    line = {"kind": "round", "sitting": 0, "elapsed_s": 1.0, "seconds": seconds}
    profile = profile_of([line], SETTINGS, MACHINE)
    found = [m.kernel for m in profile.kernels] + [m.collective for m in profile.collectives]
    assert found == [item for item in items[::2] if item in found]
    assert len(found) >= len(items) // 2 - 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--processes", "0"), f"must be 1 to {len(os.sched_getaffinity(0))}, the cores"),
        (("--budget-s", "0"), "budget: must be positive, got 0 s"),
        (("--seq-len", "0"), "seq_len: must be at least 1, got 0"),
        (("-o", "profile"), "expected a file that ends in .json, got profile"),
        (("--model", "gpt-tini"), "unknown model 'gpt-tini'; did you mean gpt-tiny"),
    ],
)
def test_mistakes_are_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys, words: tuple[str, str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["calibrate", *words]) == 2
    lines = [x for x in capsys.readouterr().err.splitlines() if "warning: other" not in x]
    assert len(lines) == 1
    assert message in lines[0]
    assert not list(tmp_path.iterdir())
