"""Published runs are laid out as their sources describe them."""

import re
from collections.abc import Mapping
from functools import cache

import pytest

from parplan.errors import ParplanError
from parplan.experiments.cases.evaluate import evaluate
from parplan.experiments.cases.held_out import CALIBRATION, VALIDATION
from parplan.experiments.cases.machine import Network, cluster_of_case, network_of
from parplan.experiments.cases.read import Case, read_cases
from parplan.experiments.cases.request import CaseRequest, model_of, request_of
from parplan.sim.plan import check_plan
from tests.experiments.cases.published_cases import case

GBIT = 1e9 / 8


@pytest.mark.parametrize(
    ("text", "per_node", "network"),
    [
        (None, 8, None),
        ("", 8, None),
        ("Ethernet, Infiniband", 8, None),
        ("RoCE (speed unstated), 8 GPUs/node", 8, None),
        # Bytes are those of something else than the network.
        ("InfiniBand; Data bandwidth for GPU-PCIe: 504 GB/s; PCIe-NIC: 500 GB/s", 8, None),
        # So many interfaces of a node, shared by its accelerators.
        ("8x InfiniBand HDR 200Gb/s per node", 8, Network(per_accelerator=200 * GBIT)),
        ("4x InfiniBand HDR 200Gb/s per node", 8, Network(per_accelerator=100 * GBIT)),
        ("4x ConnectX-8 IB XDR 800 Gb/s", 4, Network(per_accelerator=800 * GBIT)),
        # A node's in all.
        ("1600 Gb/s RoCE per node", 8, Network(per_accelerator=200 * GBIT)),
        ("2Tb/s RoCE per node", 8, Network(per_accelerator=250 * GBIT)),
        # One interface's.
        ("InfiniBand HDR 200Gb/s (DGX A100 SuperPOD)", 8, Network(per_interface=200 * GBIT)),
        # Of several networks the one between accelerators.
        (
            "Storage: 2x ConnectX-7 IB NDR 400Gb/s, Compute: 8x ConnectX-7 IB NDR 400Gb/s, "
            "Management: 100Gb/s Ethernet NIC",
            8,
            Network(per_accelerator=400 * GBIT),
        ),
        (
            "Management: 1x Bluefield-2 DPU Ethernet 100Gb/Sec, "
            "Compute: 8x ConnectX-7 InfiniBand NDR 400Gb/Sec",
            8,
            Network(per_accelerator=400 * GBIT),
        ),
        (
            "8x ConnectX-8 IB XDR 800Gb/s + 400Gb/s Ethernet NIC",
            8,
            Network(per_accelerator=800 * GBIT),
        ),
    ],
)
def test_networks_are_read_from_text(
    text: str | None, per_node: int, network: Network | None
) -> None:
    assert network_of(text, per_node) == network


def nominal_rate(link: str) -> float:
    """What an accelerator of two such nodes has of the network, in bytes per second."""
    hardware = case(hardware__n_accelerators=16, hardware__inter_link=link).hardware
    fabric = cluster_of_case(hardware).tiers[-1].fabric
    assert fabric is not None
    return fabric.nominal_bytes_per_s


def test_the_cluster_has_the_network_of_the_case() -> None:
    assert nominal_rate("4x 100Gb/s RoCE per node") == pytest.approx(50 * GBIT)
    assert nominal_rate("400 Gb/s per node") == pytest.approx(50 * GBIT)
    # The node has eight interfaces for eight accelerators.
    assert nominal_rate("HDR 200Gb/s") == pytest.approx(200 * GBIT)


def test_an_accelerator_without_preset_is_named() -> None:
    with pytest.raises(ParplanError, match=r"hardware\.key: no preset for 'Z80'"):
        cluster_of_case(case(hardware__key="Z80").hardware)


@pytest.mark.parametrize(
    ("text", "ranks"),
    [
        ("MLA q_lora1536 kv_lora512 nope128 rope64 v128", (1536, 512, 128, 64, 128)),
        ("MLA q_lora768 kv_lora256 nope96 rope32 v80", (768, 256, 96, 32, 80)),
        ("MLA kv_lora256", (1536, 256, 128, 64, 128)),
        ("MLA q_lora0", (0, 512, 128, 64, 128)),
    ],
)
def test_latent_attention_is_read_from_text(text: str, ranks: tuple[int, ...]) -> None:
    mla = model_of(case(model__attention=text).model).mla
    assert mla is not None
    found = mla.query_rank, mla.kv_rank, mla.nope_size, mla.rope_size, mla.value_size
    assert found == ranks


def test_other_attention_is_not_latent() -> None:
    assert model_of(case(model__attention="GQA").model).mla is None
    assert model_of(case().model).mla is None


def plan_of(**changes: object) -> Mapping[str, object]:
    return request_of(case(**changes)).plan.to_json()


@pytest.mark.parametrize(
    ("words", "level", "ops", "layers"),
    [
        ("none", "none", None, None),
        ("none (no checkpointing at 8k)", "none", None, None),
        ("full", "full", None, None),
        ("full (method block, layers 21)", "full", None, 21),
        ("selective", "selective", ["attention"], None),
        ("selective modules: mla_up_proj", "selective", ["query up", "kv up", "rotary"], None),
        (
            "selective modules: layernorm+moe_act",
            "selective",
            [
                "attention norm",
                "mlp norm",
                "experts activation",
                "shared experts activation",
            ],
            None,
        ),
        (
            "selective modules: mla_up_proj+mlp",
            "selective",
            ["query up", "kv up", "rotary", "mlp up", "mlp activation", "mlp down"],
            None,
        ),
    ],
)
def test_recomputation_is_read_from_words(
    words: str, level: str, ops: list[str] | None, layers: int | None
) -> None:
    plan = plan_of(parallel__recompute=words)
    assert plan["recomputation"] == level
    assert plan["recomputed_layers"] == layers
    if ops is not None:
        assert list(plan["recomputed_ops"]) == ops  # type: ignore[call-overload]


def test_torchtitans_policy_recomputes_every_second_product() -> None:
    ops = plan_of(parallel__recompute="selective (per-op SAC)")["recomputed_ops"]
    assert {"projection", "mlp gate"} <= set(ops)  # type: ignore[call-overload]
    assert not {"qkv", "mlp up", "mlp down"} & set(ops)  # type: ignore[call-overload]


@pytest.mark.parametrize("words", ["save_dot_except_logits", "minimal"])
def test_policies_that_keep_products_recompute_none(words: str) -> None:
    ops = plan_of(parallel__recompute=words)["recomputed_ops"]
    assert not {"qkv", "projection", "mlp up", "mlp down"} & set(ops)  # type: ignore[call-overload]


@pytest.mark.parametrize("words", [None, "unstated", "custom"])
def test_what_a_source_does_not_say_is_said_to_be_assumed(words: str | None) -> None:
    request = request_of(case(parallel__recompute=words))
    assert request.plan.recomputation == "none"
    assert any("recomputation" in one for one in request.assumed)
    assert not request_of(case()).assumed


def test_maxtext_recomputes_unless_a_recipe_says_otherwise() -> None:
    request = request_of(case(parallel__recompute="MaxText default for the recipe"))
    assert request.plan.recomputation == "full"
    assert any("MaxText" in one for one in request.assumed)


def test_every_second_layer_is_half_of_a_stage() -> None:
    plan = plan_of(parallel__recompute="selective (every 2nd layer)")
    layers = case().model.layers
    assert layers is not None
    assert (plan["recomputation"], plan["recomputed_layers"]) == ("full", layers // 2)


def test_a_micro_batch_above_the_replicas_batch_is_refused() -> None:
    with pytest.raises(ParplanError, match=r"parallel.micro_batch: 64"):
        request_of(case(parallel__micro_batch=64, parallel__n_microbatches=None))


PIPELINE = {"parallel__tp": 1, "parallel__dp": 2, "parallel__pp": 4}


def test_the_first_and_the_last_stage_may_have_one_layer_fewer() -> None:
    assert plan_of(**PIPELINE, model__layers=14)["stage_layers"] == (3, 4, 4, 3)
    assert plan_of(**PIPELINE, model__layers=16)["stage_layers"] is None
    # Anything else is spread as evenly as can be.
    assert plan_of(**PIPELINE, model__layers=17)["stage_layers"] is None
    chunks = plan_of(**PIPELINE, model__layers=14, parallel__vpp=2, parallel__schedule="1F1B-I")
    assert chunks["stage_layers"] == (1, 2, 2, 2, 2, 2, 2, 1)


def test_the_first_and_the_last_chunk_may_have_no_layer() -> None:
    # 1F1B-I of Qi et al. 2023 (arXiv:2401.10241, table 3): 22 layers in 8 x 3 chunks of one.
    done = evaluate(case(**PIPELINE, model__layers=10, parallel__vpp=3))
    assert done.request is not None
    assert done.request.plan.stage_layers == (0, *[1] * 10, 0)
    assert done.step_s is not None


@pytest.mark.parametrize(
    ("changes", "group"),
    [
        ({}, None),
        ({"parallel__zero_group": "4 GPUs"}, 4),
        ({"parallel__zero_group": "all DP ranks"}, None),
        ({"parallel__fsdp": 2}, 2),
        ({"parallel__fsdp": 0}, None),
        # Groups as large as all replicas, or that do not divide them, are none.
        ({"parallel__fsdp": 8}, None),
        ({"parallel__zero_group": "3 GPUs"}, None),
    ],
)
def test_sharding_within_groups(changes: dict[str, object], group: int | None) -> None:
    plan = plan_of(parallel__tp=1, parallel__dp=8, parallel__zero_stage=3, **changes)
    assert plan["shard_group"] == group


@pytest.mark.parametrize(
    ("name", "chunks", "schedule"),
    [
        ("1F1B", 1, "1f1b"),
        ("interleaved-1F1B", 2, "interleaved-1f1b"),
        ("1F1B-I", 2, "interleaved-1f1b"),
        ("ZB-1p", 1, "zb-h1"),
        ("ZB-2p", 1, "zb-h2"),
        (None, 1, "1f1b"),
    ],
)
def test_schedules_are_found_by_their_names(name: str, chunks: int, schedule: str) -> None:
    plan = plan_of(**PIPELINE, model__layers=16, parallel__vpp=chunks, parallel__schedule=name)
    assert plan["schedule"] == schedule


def test_micro_batches_follow_from_their_size_or_their_number() -> None:
    sized = plan_of(parallel__micro_batch=4)
    assert (sized["batch_per_device"], sized["num_micro_batches"]) == (4, 2)
    counted = plan_of(parallel__micro_batch=None, parallel__n_microbatches=2)
    assert counted == sized
    request = request_of(case(parallel__micro_batch=None))
    assert (request.plan.batch_per_device, request.plan.num_micro_batches) == (1, 8)
    assert request.assumed


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"parallel__micro_batch": 3}, "parallel.micro_batch: 3 does not divide 8"),
        ({"parallel__global_batch": 30}, "a global batch of 30 cannot be split over 4 replicas"),
        ({"parallel__global_batch": 2}, "a global batch of 2 cannot be split over 4 replicas"),
        ({"parallel__tp": 3}, "tp 3 x pp 1 x cp 1 does not divide 8"),
        ({"parallel__tp": None, "parallel__dp": None}, "neither tp nor dp is given"),
        ({"parallel__global_batch": None}, "parallel.global_batch: is not given"),
        ({"model__layers": None}, "model.layers: is not given"),
        ({"model__seq_len": None}, "model.seq_len: is not given"),
        ({"model__hybrid": "Mamba"}, "model.hybrid: Mamba is not a transformer alone"),
    ],
)
def test_what_cannot_be_laid_out_has_one_line_that_says_why(
    changes: dict[str, object], message: str
) -> None:
    with pytest.raises(ParplanError) as caught:
        request_of(case(**changes))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@cache
def laid_out() -> list[tuple[Case, CaseRequest | None, str]]:
    """Every shipped case as a request, or why not."""
    found: list[tuple[Case, CaseRequest | None, str]] = []
    for one in (*read_cases(CALIBRATION), *read_cases(VALIDATION)):
        try:
            request = request_of(one)
            check_plan(request.plan, request.workload, request.cluster.num_accelerators)
            found.append((one, request, ""))
        except ParplanError as error:
            found.append((one, None, str(error)))
    return found


def test_every_shipped_case_is_laid_out_or_says_why_in_one_line() -> None:
    for one, request, reason in laid_out():
        if request is None:
            assert re.fullmatch(r"(hardware|model|parallel|plan)[.:].+", reason), (one.id, reason)
            continue
        assert request.cluster.num_accelerators == one.hardware.n_accelerators, one.id
        assert request.workload.global_batch == one.parallel.global_batch, one.id


def test_nearly_all_complete_cases_are_laid_out() -> None:
    complete = [request for one, request, _ in laid_out() if one.quality.startswith("A")]
    missing = sum(request is None for request in complete)
    assert missing <= 0.02 * len(complete)


def test_a_stated_size_of_micro_batches_is_kept() -> None:
    for one, request, _ in laid_out():
        size = one.parallel.micro_batch
        if request is not None and size is not None and size >= 1:
            assert request.plan.batch_per_device == int(size), one.id


def test_chunks_that_a_table_leaves_out_are_those_of_its_other_releases() -> None:
    notes = "Pre-Training; VP printed NA in this release, 12 in the others"
    shape = {"parallel__pp": 8, "parallel__vpp": 1, "model__layers": 96, "parallel__dp": 1}
    own = request_of(case(**shape, notes=notes, hardware__n_accelerators=8, parallel__tp=1))
    assert own.plan.virtual_stages == 12
    assert "12 chunks a rank, as in other releases of the table" in own.assumed
    plain = request_of(case(**shape, hardware__n_accelerators=8, parallel__tp=1))
    assert plain.plan.virtual_stages == 1


@pytest.mark.parametrize(
    ("group", "stages", "zero"), [("torchtitan", 1, 3), ("torchtitan", 2, 2), ("bridge", 2, 3)]
)
def test_torchtitans_pipelines_gather_once_a_step(group: str, stages: int, zero: int) -> None:
    shape = {"parallel__pp": stages, "parallel__tp": 1, "parallel__zero_stage": 3}
    own = request_of(case(group=group, **shape, hardware__n_accelerators=8))
    assert own.plan.zero_stage == zero
