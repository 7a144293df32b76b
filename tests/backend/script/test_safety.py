"""What goes wrong without a word in shared scripts: real processes (safety_worker.py)."""

import json
from collections import defaultdict
from pathlib import Path

import pytest

from tests.commands import parplan
from tests.torchrun import torchrun

HERE = Path(__file__).parent
TOLERANCE = 1e-6

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    worker = HERE / "safety_worker.py"
    done = torchrun(2, worker, cwd=tmp_path_factory.mktemp("worker"), timeout_s=200)
    lines = defaultdict(list)
    for line in map(json.loads, done.stdout.splitlines()):
        lines[line["case"]].append(line)
    assert all(len(of_case) == 2 for of_case in lines.values())
    return lines


def test_dropout_leaves_the_order_of_batches_the_same_on_all_processes(found):
    first, second = found["shuffled"]
    assert first["seen"] == second["seen"]
    assert first["losses"] == second["losses"]
    assert first["seen"][:3] != first["seen"][3:]  # the epochs are shuffled


def test_a_script_without_a_seed_sees_the_same_batches_on_all_processes(found):
    first, second = found["unseeded"]
    assert first["losses"] == second["losses"]
    assert len(set(first["losses"])) > 6  # shuffled, and trained


def test_steps_of_a_model_that_was_never_called_are_refused(found):
    for line in found["another method"]:
        assert "Net has not been called since the line" in line["text"]
        assert "\n" not in line["text"]


def test_dropout_draws_other_numbers_every_time(found):
    assert len(set(found["shuffled"][0]["masks"])) == 3


@pytest.mark.parametrize("case", ["another batch", "another order", "another shape"])
def test_batches_that_differ_later_end_the_run_before_weights_move(found, case):
    for line in found[case]:
        assert "process 1 was given another batch than process 0 after" in line["text"]
        assert "\n" not in line["text"]
        assert line["moved"] == 0


def test_processes_that_do_different_things_are_told_so(found):
    for line in found["another loop"]:
        assert "process 1 evaluates without gradients while process 0 trains" in line["text"]


@pytest.mark.parametrize("case", ["states of all", "states of one", "states of replicas"])
def test_the_state_is_that_of_the_whole_model_and_optimizer(found, case):
    for line in found[case]:
        for kind in ("resumed", "resumed_planned", "trained"):
            assert line[kind] < TOLERANCE, kind


def test_what_would_be_a_part_is_refused(found):
    for line in found["parts"]:
        assert "state_dict of the whole model" in line["inner"]
        for way in ("object", "layers", "copy"):
            assert "cannot be copied or saved as an object" in line[way]


def test_save_pretrained_writes_the_whole_model(found):
    for line in found["pretrained"]:
        assert line["difference"] < TOLERANCE


@pytest.mark.parametrize(
    "case", ["autocast", "scaler", "scaler of tiny gradients", "bf16 parameters"]
)
def test_precision_is_the_scripts(found, case):
    for line in found[case]:
        assert line["loss"] == 0
        assert line["weight"] == 0
        assert line["scales"]


def test_steps_that_overflow_are_skipped_by_all(found):
    assert all(line["skipped"] for line in found["scaler"])


def test_mixed_precision_computes_the_loss_as_autocast_does(found):
    assert all(line["difference"] == 0 for line in found["mixed_precision"])


@pytest.mark.parametrize(
    "case", ["hooks", "hooks of replicas", "tied", "frozen first", "frozen last"]
)
def test_models_that_are_not_quite_ordinary(found, case):
    for line in found[case]:
        assert line["loss"] < TOLERANCE
        assert line["weight"] < TOLERANCE


def test_a_process_that_saves_alone_at_the_end_has_the_whole_model(tmp_path):
    torch = pytest.importorskip("torch")
    script = HERE / "ending_script.py"
    where = ("--report", "kept")
    done = parplan("train", "--processes", "2", *where, script, "saving", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "kept" / "plan.json").exists()
    state = torch.load(tmp_path / "model.pt")
    assert len(state) == 8
    assert all(value.shape in ((4, 4), (4,)) for value in state.values())


@pytest.mark.long
@pytest.mark.parametrize(
    ("what", "code", "text"),
    [
        ("longer", 1, "process 1 has come to its end while process 0 trains"),
        ("status", 1, "exit code 3"),
    ],
)
def test_scripts_that_end_otherwise(what, code, text, tmp_path):
    done = parplan("train", "--processes", "2", HERE / "ending_script.py", what, cwd=tmp_path)
    assert done.returncode == code
    assert text in done.stderr
