"""Calls and outputs of unusual forms are divided rightly, or refused in one line
(forms_worker.py)."""

import json
from collections import defaultdict
from pathlib import Path

import pytest

from tests.torchrun import torchrun

TOLERANCE = 2e-6
"""Relative, in fp32: losses of four steps, the last rows of an epoch among them, and weights."""

EXACT = (
    *("dataclass out", "dataclass in", "sum of losses", "loss of each row", "hidden states"),
    *("labels that do not count", "columns", "draws", "BatchNorm", "two models"),
    "compiled after the line",
)
REFUSED = {
    "second backward": "a second backward through one call",
    "gradient penalty": "torch.autograd.grad through a parallelised model",
}

pytestmark = pytest.mark.timeout(300)


def run(forms, folder):
    worker = Path(__file__).with_name("forms_worker.py")
    done = torchrun(2, worker, *forms, cwd=folder, timeout_s=200)
    lines = defaultdict(list)
    for text in done.stdout.splitlines():
        if not text.startswith('{"rank"'):
            continue  # of the Trainer
        line = json.loads(text)
        lines[line["form"]].append(line)
    return lines


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    return run((), tmp_path_factory.mktemp("worker"))


@pytest.mark.parametrize("form", EXACT)
def test_a_form_trains_as_in_one_process(found, form):
    assert len(found[form]) == 2
    for line in found[form]:
        assert line["loss"] < TOLERANCE
        assert line["weight"] < TOLERANCE


@pytest.mark.parametrize("form", REFUSED)
def test_gradients_that_would_be_those_of_a_part_are_refused(found, form):
    assert len(found[form]) == 2
    for line in found[form]:
        assert REFUSED[form] in line["refused"]
        assert "\n" not in line["refused"]


@pytest.mark.long
def test_trainers_that_leave_the_model_unwrapped_train_as_one_process(tmp_path):
    pytest.importorskip("accelerate")
    pytest.importorskip("transformers")
    lines = run(("Accelerate", "Trainer"), tmp_path)
    for form in ("Accelerate", "Trainer"):
        assert len(lines[form]) == 2
        for line in lines[form]:
            assert line["loss"] < TOLERANCE
            assert line["weight"] < TOLERANCE
