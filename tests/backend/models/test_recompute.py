from collections import Counter

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from parplan.backend.models.recompute import recomputed
from parplan.errors import ParplanError


class Counted(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.calls = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.calls[function.overloadpacket.__name__] += 1
        return function(*args, **(kwargs or {}))


# The second product's output is not needed in the backward, so that it is never repeated.
@pytest.mark.parametrize(
    ("level", "repeated"),
    [("none", (0, 0)), ("selective", (0, 1)), ("full", (1, 1))],
)
def test_backward_repeats_linear_products_and_activation(level, repeated):
    layer = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.GELU(), torch.nn.Linear(8, 4))
    values = torch.randn(3, 4, requires_grad=True)
    output = recomputed(layer, level)(values).sum()
    with Counted() as counted:
        output.backward()
    assert (counted.calls["addmm"], counted.calls["gelu"]) == repeated


def test_unknown_level_is_an_error():
    with pytest.raises(ParplanError, match="did you mean selective"):
        recomputed(torch.nn.Linear(1, 1), "selectiv")
