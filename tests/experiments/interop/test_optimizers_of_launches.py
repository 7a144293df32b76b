"""Optimizers of launches: which one, and what its moments are kept in."""

import pytest

from parplan.experiments.interop.importers.from_megatron import from_megatron
from parplan.experiments.interop.importers.imported import Given

LAUNCH = (
    "torchrun --nproc_per_node 8 pretrain_gpt.py --num-layers 8 --hidden-size 512 "
    "--num-attention-heads 8 --seq-length 1024 --max-position-embeddings 1024 --bf16 "
    "--micro-batch-size 1 --global-batch-size 8 --vocab-size 32000 "
)
PRECISION_AWARE = "--use-precision-aware-optimizer --exp-avg-dtype {0} --exp-avg-sq-dtype {1}"


@pytest.mark.parametrize(
    ("flags", "optimizer"),
    [
        ("", "adamw"),
        ("--optimizer sgd", "sgd"),
        ("--optimizer muon", "muon"),
        ("--optimizer dist_muon", "muon"),
        (PRECISION_AWARE.format("bf16", "bf16"), "adamw-bf16"),
        (PRECISION_AWARE.format("fp8", "fp8"), "adamw-8bit"),
        (PRECISION_AWARE.format("fp32", "fp32"), "adamw"),
        ("--exp-avg-dtype bf16 --exp-avg-sq-dtype bf16", "adamw"),
    ],
)
def test_the_optimizer_of_megatron(flags: str, optimizer: str) -> None:
    found = from_megatron(LAUNCH + flags, "launch.sh", Given())
    assert found.workload["optimizer"] == optimizer


def test_moments_of_two_kinds_are_said_not_to_be_modelled() -> None:
    found = from_megatron(LAUNCH + PRECISION_AWARE.format("bf16", "fp32"), "launch.sh", Given())
    assert found.workload["optimizer"] == "adamw"
    assert any("exp-avg-dtype" in line for line in found.not_understood)
