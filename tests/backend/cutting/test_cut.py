"""Models cut at the blocks that their forward calls, in one process."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional

from parplan.backend.cutting.cut_at_blocks import cut_at_blocks
from parplan.backend.models.chain import NoChainError
from parplan.backend.runtime.own_part import leave_out
from parplan.errors import ParplanError

IMAGES, LABELS = torch.randn(4, 3, 8, 8), torch.tensor([0, 1, 2, 3])


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(8, 8)

    def forward(self, x, places, *, scale=1.0):
        return x + scale * self.inner(x + places).tanh(), None


class Vision(nn.Module):
    """Patches, a learned first place, blocks that are given a table; returns (logits, loss)."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.norm = nn.Conv2d(3, 8, 4, 4), nn.BatchNorm1d(8)
        self.first = nn.Parameter(torch.randn(1, 1, 8))
        self.blocks = nn.ModuleList(Block() for _ in range(3))
        self.head = nn.Linear(8, 4)

    def places(self, images, x):
        return torch.arange(x.shape[1] * 8.0).view(1, -1, 8)

    def forward(self, images, labels=None):
        x = self.norm(self.patches(images).flatten(2)).transpose(1, 2)
        x = torch.cat([self.first.expand(len(x), -1, -1), x], 1)
        places = self.places(images, x)
        for block in self.blocks:
            x, _ = block(x, places, scale=0.5)
        logits = self.head(x[:, 0])
        return logits, functional.cross_entropy(logits, labels)


class OfRows(Vision):
    def places(self, images, x):
        return images.mean((1, 2, 3)).view(-1, 1, 1).expand_as(x)


class Trained(Vision):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(1, 5, 8))

    def places(self, images, x):
        return self.table


class Twice(Vision):
    def forward(self, images, labels=None):
        super().forward(images, labels)
        return super().forward(images, labels)


def cut(model):
    return cut_at_blocks(model, ((IMAGES,), {"labels": LABELS}))


def loss_of(chain, images, labels):
    values = images
    for layer in chain.layers:
        values = layer(values)
    return chain.loss_fn(values, labels)


def test_a_chain_computes_what_the_model_does_and_its_gradients() -> None:
    torch.manual_seed(0)
    model = Vision()
    other = copy.deepcopy(model)
    chain, how = cut(model)
    assert (len(chain.layers), chain.num_blocks) == (5, 3)
    found = loss_of(chain, IMAGES[:3], LABELS[:3])
    found.backward()
    _, expected = other(IMAGES[:3], LABELS[:3])
    expected.backward()
    assert found.item() == pytest.approx(expected.item(), rel=1e-6)
    for (name, one), two in zip(model.named_parameters(), other.parameters(), strict=True):
        assert one.grad is not None, name
        torch.testing.assert_close(one.grad, two.grad)
    # Statistics are the model's own; modes are followed.
    torch.testing.assert_close(model.norm.running_mean, other.norm.running_mean)
    before = model.norm.running_mean.clone()
    model.eval()
    loss_of(chain, IMAGES, LABELS)
    assert torch.equal(model.norm.running_mean, before)
    assert how.returned(found)[1] is found
    with pytest.raises(ParplanError, match="only the loss of a model under a pipeline"):
        how.returned(found)[0].argmax(-1)
    with pytest.raises(ParplanError, match="only the loss of a model under a pipeline"):
        functional.softmax(how.returned(found)[0], -1)


def test_copies_of_layers_leave_the_model_as_it_is() -> None:
    model = Vision()
    chain, _ = cut(model)
    before = {name: p.clone() for name, p in model.named_parameters()}
    layers = nn.ModuleList(copy.deepcopy(layer) for layer in chain.layers)
    values = IMAGES
    for layer in layers:
        values = layer(values)
    chain.loss_fn(values, LABELS).backward()
    assert all(p.grad is not None for p in layers.parameters())
    torch.optim.SGD(layers.parameters(), lr=1.0).step()
    assert all(p.grad is None for p in model.parameters())
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
    # And the model's own layers are used again afterwards.
    loss_of(chain, IMAGES, LABELS).backward()
    assert all(p.grad is not None for p in model.parameters())


def test_each_end_has_its_own_parameters_alone() -> None:
    model = Vision()
    chain, _ = cut(model)
    first, last = chain.layers[0], chain.layers[-1]
    leave_out(model, [chain.layers[3], last])
    assert {p.numel() for p in first.parameters()} == {0}
    with pytest.raises(ParplanError, match="on another process"):
        model.state_dict()
    assert model.first is None
    assert loss_of(chain_after(chain), torch.randn(2, 5, 8), LABELS[:2]).requires_grad
    assert sum(p.numel() for p in last.parameters()) == 8 * 4 + 4


def chain_after(chain):
    """The last block and what comes after it."""
    return type(chain)(layers=chain.layers[3:], num_first=0, num_last=1, loss_fn=chain.loss_fn)


def test_another_shape_than_that_of_the_table_is_refused() -> None:
    _, how = cut(Vision())
    with pytest.raises(NoChainError, match=r"rows of shape \(3, 8, 8\), as at the first call"):
        how.tensors((torch.randn(4, 3, 12, 12),), {"labels": LABELS})
    with pytest.raises(NoChainError, match="targets below zero are not counted"):
        how.tensors((IMAGES,), {"labels": LABELS - 100})


@pytest.mark.parametrize(
    ("model", "why"),
    [
        (OfRows, "block 0 takes more than values, which rows differ in"),
        (Trained, "block 0 takes more than values, which is trained"),
        (Twice, "its blocks are not called once each, one after the other"),
    ],
)
def test_what_cannot_be_cut_says_why(model, why) -> None:
    with pytest.raises(NoChainError, match=rf"^{model.__name__}: {why}$"):
        cut(model())
