"""Planning for a script by a machine's profile: one process that stands for two."""

import dataclasses

import pytest
import torch
from torch import nn

from parplan.backend import enable_advanced_parallelization
from parplan.backend.executable import reduces_by_hooks, why_not_executable
from parplan.backend.models.find_chain import find_chain
from parplan.backend.models.gpt import gpt_layers, language_loss
from parplan.backend.runtime.whole_state import WholeState
from parplan.backend.script import plan_script
from parplan.backend.script.calls import SPREADERS, hf_tensors, refuse_trainer
from parplan.backend.script.plan_script import described, find_plan
from parplan.errors import ParplanError
from parplan.hardware.estimates.profile_file import write_profile
from parplan.planners.spaces.options import Options
from parplan.sim.models.model import model_preset
from parplan.sim.plan import Plan
from tests.hardware.test_profile import SAMPLE

MODEL = dataclasses.replace(model_preset("gpt-tiny"), num_layers=2)
TOKENS = torch.zeros(16, 64, dtype=torch.int64)
CPU = torch.device("cpu")


class Language(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(*gpt_layers(MODEL, 64))

    def forward(self, tokens: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return language_loss(self.layers(tokens), targets)


@pytest.fixture
def profile(tmp_path, monkeypatch):
    monkeypatch.setattr(plan_script, "num_processes", lambda: 2)
    path = tmp_path / "profile.json"
    write_profile(SAMPLE, path)
    return path


def plan_of(profile, *, planned_now: bool, **options):
    chain = find_chain(Language())
    given = Options(mixed_precision=False, **options)
    return find_plan(chain, (TOKENS, TOKENS), given, profile, CPU, planned_now=planned_now)[0]


def test_a_profile_plans_for_the_script(profile) -> None:
    for planned_now in (True, False):
        plan = plan_of(profile, planned_now=planned_now)
        assert not why_not_executable(plan, 2)
        if not planned_now:
            assert plan.tensor_parallel == 1
            assert reduces_by_hooks(plan)
    sharded = plan_of(profile, planned_now=True, distribute_parameter=True, pipeline_parallel=False)
    assert sharded.zero_stage >= 2 or sharded.tensor_parallel == 2


def test_a_profile_of_other_processes_is_refused(profile, monkeypatch) -> None:
    monkeypatch.setattr(plan_script, "num_processes", lambda: 4)
    with pytest.raises(
        ParplanError, match=r"measured with 2 processes, but 4 run; .*--processes 4"
    ):
        plan_of(profile, planned_now=True)


def test_layers_that_the_simulator_does_not_know(profile) -> None:
    chain = find_chain(nn.Module(), [nn.Linear(2, 2)], nn.functional.mse_loss)
    with pytest.raises(ParplanError, match="a profile plans for parplan's own layers and Hugging"):
        described(chain, "profile.json")


def test_hugging_face_models_are_described() -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(n_layer=2, n_embd=16, n_head=2, vocab_size=32)
    chain = find_chain(transformers.GPT2LMHeadModel(config))
    model = described(chain, "profile.json")
    own = {id(p): p.numel() for layer in chain.layers for p in layer.parameters()}
    assert model.num_parameters == sum(own.values())


def test_models_of_hugging_face_that_are_no_chain() -> None:
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 16, "ffn_dim": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.OPTConfig(**sizes, word_embed_proj_dim=16, vocab_size=32)
    with pytest.raises(ParplanError, match="OPTForCausalLM: model has 0 lists of 1 decoder layers"):
        find_chain(transformers.OPTForCausalLM(config))


def test_masks_and_calls_that_cannot_be_parallelised() -> None:
    mask = torch.ones(2, 4, dtype=torch.int64)
    tokens, labels = torch.zeros(2, 4), torch.zeros(2, 4, dtype=torch.int64)
    given = {"input_ids": tokens, "labels": labels}
    assert hf_tensors((), {**given, "attention_mask": mask})[0] is tokens
    mask[0, -1] = 0
    with pytest.raises(ParplanError, match="only padding on the right, whose labels are -100"):
        hf_tensors((), {**given, "attention_mask": mask})
    labels[0, -1] = -100
    assert hf_tensors((), {**given, "attention_mask": mask})[1] is labels
    mask[0] = torch.tensor([0, 1, 1, 1])
    labels[0, 0] = -100
    with pytest.raises(ParplanError, match="only padding on the right"):
        hf_tensors((), {**given, "attention_mask": mask})
    with pytest.raises(ParplanError, match=r"called as model\(input_ids=..., labels=...\)"):
        hf_tensors((tokens,), {})
    with pytest.raises(ParplanError, match="not position_ids"):
        hf_tensors((), {**given, "position_ids": tokens})


def test_a_trainer_that_calls_is_refused() -> None:
    transformers = pytest.importorskip("transformers")

    class Theirs(transformers.Trainer):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            pass

        def step(self) -> None:
            refuse_trainer()

    with pytest.raises(ParplanError, match="Hugging Face's Trainer spreads batches"):
        Theirs().step()
    refuse_trainer()


@pytest.mark.parametrize(("module", "name"), SPREADERS)
def test_whatever_spreads_batches_itself_is_refused(module, name) -> None:
    kind = type(name, (), {"__module__": module, "step": lambda self: refuse_trainer()})
    with pytest.raises(ParplanError, match="spreads batches over the processes") as caught:
        kind().step()
    assert "\n" not in str(caught.value)


def test_a_sampled_text_needs_the_whole_model(tmp_path, monkeypatch) -> None:
    transformers = pytest.importorskip("transformers")
    monkeypatch.chdir(tmp_path)
    config = transformers.GPT2Config(n_layer=2, n_embd=16, n_head=2, vocab_size=32)
    torch.manual_seed(1)
    model = transformers.GPT2LMHeadModel(config)
    tokens = torch.arange(8).reshape(2, 4)
    settings = {"max_new_tokens": 3, "do_sample": False, "pad_token_id": 0}
    expected = model.eval().generate(tokens, **settings)
    enable_advanced_parallelization(model, plan=Plan(batch_per_device=2))
    with torch.no_grad():
        model(input_ids=tokens, labels=tokens)
    assert torch.equal(model.generate(tokens, **settings), expected)
    monkeypatch.setattr(WholeState, "parted", True)  # as in a pipeline
    with pytest.raises(ParplanError, match=r"for generate\(\) under a pipeline, save the model"):
        model.generate(tokens, **settings)
