"""Kinds of training scripts with the one line train as in one process, or are refused in one line
(breadth_worker.py)."""

import json
from collections import defaultdict
from pathlib import Path

import pytest

from tests.torchrun import torchrun

TOLERANCE = 1e-6
"""Relative, in fp32: losses of three steps, and weights after them."""

KINDS = (
    *("criterion", "nanoGPT", "CNN", "called twice", "BERT", "Mixtral"),
    *("Llama, padded on the left", "DistributedSampler", "DistributedSampler, pipeline"),
    *("nanoGPT, ZeRO-3", "nanoGPT, two stages", "nanoGPT, a plan", "ViT, a plan"),
)
MORE_KINDS = (
    *("ViT", "compiled", "compiled blocks", "T5", "OPT", "HF ViT", "Qwen-MoE"),
    *("sum of losses", "Llama, loss outside", "BERT, a plan", "HF ViT, a plan"),
)
REFUSED = {
    "rows that depend on each other": "its rows depend on each other, or its loss is no mean",
    "a pipeline of what is no chain": "its call has not two tensors of two rows or more "
    "(num_stages 2 needs a chain of layers)",
    "a pipeline past which values go": "its loss needs more than the last block's output and the "
    "targets (num_stages 2 needs a chain of layers)",
    "logits of a pipeline": "only the loss of a model under a pipeline is on every process",
}

pytestmark = pytest.mark.timeout(400)


def run(kinds, folder):
    pytest.importorskip("transformers")
    worker = Path(__file__).with_name("breadth_worker.py")
    done = torchrun(2, worker, *kinds, cwd=folder)
    lines = defaultdict(list)
    for line in map(json.loads, done.stdout.splitlines()):
        lines[line["kind"]].append(line)
    return lines


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    return run((*KINDS, *REFUSED), tmp_path_factory.mktemp("worker"))


def check(lines):
    assert len(lines) == 2
    for line in lines:
        assert line["loss"] < TOLERANCE
        assert line["weight"] < TOLERANCE


@pytest.mark.parametrize("kind", KINDS)
def test_a_script_trains_as_in_one_process(found, kind):
    check(found[kind])


@pytest.mark.parametrize("kind", REFUSED)
def test_what_would_train_another_model_is_refused_in_one_line(found, kind):
    assert len(found[kind]) == 2
    for line in found[kind]:
        assert REFUSED[kind] in line["refused"]
        assert "\n" not in line["refused"]


@pytest.mark.long
def test_more_scripts_train_as_in_one_process(tmp_path):
    lines = run(MORE_KINDS, tmp_path)
    for kind in MORE_KINDS:
        check(lines[kind])
