"""What measuring a model holds beside it."""

from torch import nn

from parplan.backend.calibration.machine_costs import ENOUGH_PARAMETERS, layers_of_optimizer
from parplan.backend.models.chain import Chain


def chain(width, *, frozen=False):
    blocks = [nn.Linear(width, width, bias=False) for _ in range(4)]
    for block in blocks:
        block.requires_grad_(not frozen)
    layers = (nn.Embedding(8, width), *blocks, nn.Linear(width, 8))
    return Chain(layers=layers, num_first=1, num_last=1, loss_fn=lambda outputs, targets: outputs)


def test_the_optimizer_is_measured_on_blocks_that_are_enough() -> None:
    large = chain(2048)
    assert 2 * 2048**2 < ENOUGH_PARAMETERS <= 3 * 2048**2
    assert layers_of_optimizer(large) == large.layers[1:4]


def test_small_or_frozen_blocks_are_measured_with_all_layers() -> None:
    for few in (chain(64), chain(2048, frozen=True)):
        assert layers_of_optimizer(few) == few.layers
