"""What the one line refuses, and says so in one line: in one process, which needs no torchrun."""

import resource

import pytest
import torch
from torch import nn

from parplan.backend import enable_advanced_parallelization
from parplan.backend.runtime.checkpoint import load_checkpoint, save_checkpoint
from parplan.backend.runtime.own_part import OnAnotherProcess
from parplan.backend.script import plan_script
from parplan.errors import ParplanError, RunFailedError
from parplan.sim.plan import Plan, zero_fields

BATCH = torch.arange(8.0).reshape(4, 2), torch.ones(4, 2)

PLAN = Plan(num_micro_batches=2, batch_per_device=2)


class Chained(nn.Module):
    """A model that can be parallelised."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))

    def forward(self, inputs, targets):
        return nn.functional.mse_loss(self.layers(inputs), targets)


class Loose(Chained):
    """Has a parameter outside of the chain."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))


class NotALoss(Chained):
    """Returns what the chain gives."""

    def forward(self, inputs, targets):
        return self.layers(inputs)


class MoreThanItsChain(Chained):
    """Changes the inputs before they enter the chain."""

    def forward(self, inputs, targets):
        return super().forward(inputs if inputs is None else 2 * inputs, targets)


class LossOfInputs(Chained):
    """Its loss needs more than outputs and targets."""

    def forward(self, inputs, targets):
        return super().forward(inputs, targets) + inputs.mean()


@pytest.fixture(autouse=True)
def _own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def enabled(model=None, **arguments):
    return enable_advanced_parallelization(model or Chained(), **{"plan": PLAN, **arguments})


def refused(model, text, **arguments):
    with pytest.raises(ParplanError, match=text) as caught:
        enabled(model, **arguments)(*BATCH)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("distribute", [True, False, "auto"])
def test_all_arguments_of_the_platform_are_taken(distribute):
    """On one process, where sharded or not is the same."""
    model = enabled(
        plan=None,
        pipeline_parallel=True,
        num_stages=2,
        num_micro_batches="auto",
        activation_recomputation=False,
        distribute_parameter=distribute,
        mixed_precision=False,
        example=BATCH,
    )
    assert model(*BATCH).requires_grad


def test_sharded_parameters_need_an_example(monkeypatch):
    plans = [Plan(data_parallel=2, batch_per_device=2, **zero_fields(2))]
    monkeypatch.setattr(plan_script, "measurable_plans", lambda *_: plans)
    refused(
        Chained(),
        "^distribute_parameter: fully_shard replaces the parameters; pass example=",
        plan=None,
        distribute_parameter=True,
    )


@pytest.mark.parametrize(
    ("text", "plan"),
    [
        ("tensor_parallel 2 splits parplan's own layers alone", {"tensor_parallel": 2}),
        ("shards the optimizer, which is the script's", {"data_parallel": 2, **zero_fields(1)}),
        ("pass example=.* after this line", {"data_parallel": 2, **zero_fields(3)}),
    ],
)
def test_plans_that_a_script_cannot_be_trained_by(text, plan):
    refused(Chained(), text, plan=Plan(**plan))


@pytest.mark.parametrize("arguments", [{"num_stages": 0}, {"num_micro_batches": -1}])
def test_options_are_checked(arguments):
    refused(
        Chained(), f"{next(iter(arguments))}.*got {next(iter(arguments.values()))}", **arguments
    )


def test_a_second_line_is_refused():
    model = enabled()
    refused(model, "parallelised already")


def test_a_model_that_is_wrapped_already():
    class Wrapped(nn.parallel.DistributedDataParallel):
        def __init__(self):
            nn.Module.__init__(self)

    refused(Wrapped(), "this model is a Wrapped already; give the line the model alone")


def test_parameters_outside_of_the_chain():
    refused(Loose(), r"Loose: no child nn.Sequential holds all .*pass layers=")


def test_a_model_that_returns_no_loss():
    refused(NotALoss(), "has to return the loss, one number", loss_fn=nn.functional.mse_loss)


def test_a_model_that_does_more_than_its_chain():
    refused(MoreThanItsChain(), "its forward gives a loss of .* one after the other give")


def test_a_loss_that_needs_the_inputs():
    refused(LossOfInputs(), "cannot be computed from the outputs of layers and the targets alone")


@pytest.mark.parametrize("call", [(BATCH[0],), (BATCH[0], "targets"), (None, BATCH[1])])
def test_a_call_without_two_tensors(call):
    with pytest.raises(ParplanError, match=r"is called as model\(inputs, targets\), two tensors"):
        enabled()(*call)


def test_a_plan_for_another_batch():
    plan = Plan(num_micro_batches=3, batch_per_device=2)
    refused(
        Chained(),
        r"num_micro_batches 3 x batch_per_device 2 = 6, but the global batch is 4",
        plan=plan,
    )


def test_a_plan_for_more_processes():
    plan = Plan(num_stages=2, num_micro_batches=2, batch_per_device=2)
    refused(Chained(), "2.*process", plan=plan)


def test_a_second_backward_through_the_same_loss():
    loss = enabled()(*BATCH)
    loss.backward(retain_graph=True)
    with pytest.raises(ParplanError, match="backward was called a second time"):
        loss.backward()


def test_an_optimizer_that_steps_without_a_backward():
    model = enabled()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model(*BATCH).backward()
    optimizer.step()
    optimizer.zero_grad()
    model(*BATCH)
    with pytest.raises(ParplanError, match="steps without gradients: the model was called once"):
        optimizer.step()


def test_a_checkpoint_on_a_full_disk_keeps_the_older_one(tmp_path):
    model = enabled()
    folder = tmp_path / "saved"
    save_checkpoint(folder, model, epoch=1)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    for most in (64, 900):  # of the first file, and of the last one
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, hard))
        try:
            with pytest.raises(
                RunFailedError, match=r"cannot be written: .*; the older one is kept"
            ):
                save_checkpoint(folder, model, epoch=2, more="x" * 5000)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert load_checkpoint(folder, model) == {"epoch": 1}
        assert [path.name for path in tmp_path.iterdir() if "saved" in path.name] == ["saved"]


def test_a_layer_that_another_process_has():
    with pytest.raises(ParplanError, match="on another process; call the model as a whole"):
        OnAnotherProcess()(BATCH[0])


def test_a_refusal_writes_no_dump(tmp_path):
    refused(
        Chained(), "but the global batch is 4", plan=Plan(num_micro_batches=4, batch_per_device=2)
    )
    assert not list(tmp_path.iterdir())
