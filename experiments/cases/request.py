"""A case as what parplan predicts from: a workload, a cluster and a plan."""

import re
from dataclasses import dataclass
from typing import NamedTuple

from parplan.errors import ParplanError
from parplan.experiments.cases.machine import cluster_of_case
from parplan.experiments.cases.read import Case, CaseModel, CaseParallel
from parplan.experiments.cases.stack import Stack, stack_of
from parplan.hardware.network.cluster import Cluster
from parplan.planners.spaces.recomputed import BETWEEN_PRODUCTS, EVERY_SECOND_PRODUCT, MODULES
from parplan.sim.models.model import LatentAttention, MixtureOfExperts, Model
from parplan.sim.plan import Plan, Recomputation, layers_with_ends, zero_fields
from parplan.sim.software.framework import framework
from parplan.sim.workload import Precision, Workload

GATED = ("swiglu", "gated-gelu", "geglu")
LIKE_GPT = "gelu"
"""The MLP of models like GPT-2 and GPT-3: a table of positions, layer norms, biases, tied ends."""

LOW_PRECISION = ("fp8", "fp4", "int8")


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseRequest:
    """The prediction to make for a case, and the assumptions behind it."""

    workload: Workload
    cluster: Cluster
    plan: Plan
    stack: Stack
    assumed: tuple[str, ...]


def request_of(case: Case) -> CaseRequest:
    """Lay out `case`; raises `ParplanError` saying what is missing or cannot be expressed."""
    stack, assumed = stack_of(case), list[str]()
    cluster = cluster_of_case(case.hardware)
    workload = _workload(case, stack, cluster)
    plan = _plan(case, stack, workload, assumed)
    return CaseRequest(
        workload=workload, cluster=cluster, plan=plan, stack=stack, assumed=tuple(assumed)
    )


def _workload(case: Case, stack: Stack, cluster: Cluster) -> Workload:
    return Workload(
        model=model_of(case.model, stack),
        seq_len=_given(case.model.seq_len, "model.seq_len"),
        global_batch=_given(case.parallel.global_batch, "parallel.global_batch"),
        precision=_precision(case.precision, cluster),
        attention=stack.attention,
        fused_norms=stack.fused_norms,
        fused_elementwise=stack.fused_elementwise,
        fused_loss=stack.fused_loss,
        dropout=stack.dropout,
        lora_rank=_lora_rank(case),
        framework=framework(stack.framework),
        software=stack.software,
    )


def model_of(m: CaseModel, stack: Stack | None = None) -> Model:
    """The architecture of a case; raises `ParplanError` naming what is not given.

    Of a model like GPT-3 positions are a learned table; of all others, rotations.
    """
    if m.hybrid:
        raise ParplanError(f"model.hybrid: {m.hybrid} is not a transformer alone")
    gated, gpt = m.mlp in GATED, m.mlp == LIKE_GPT
    heads = _given(m.heads, "model.heads")
    experts = _experts(m)
    return Model(
        name=m.name,
        num_layers=_given(m.layers, "model.layers"),
        hidden_size=_given(m.hidden, "model.hidden"),
        num_heads=heads,
        num_kv_heads=m.kv_heads or heads,
        ffn_size=_given(m.ffn or (experts.ffn_size if experts else None), "model.ffn"),
        vocab_size=_given((stack and stack.vocab_size) or m.vocab, "model.vocab"),
        mlp="gated" if gated else "plain",
        norm="rmsnorm" if gated else "layernorm",
        bias=gpt,
        tied_embeddings=gpt,
        learned_positions=_given(m.seq_len, "model.seq_len") if gpt else 0,
        head_dim=m.head_dim,
        moe=experts,
        mla=_latent(m.attention),
        source="published case",
    )


def _experts(m: CaseModel) -> MixtureOfExperts | None:
    if m.moe is None:
        return None
    return MixtureOfExperts(
        num_experts=m.moe.experts,
        top_k=m.moe.topk,
        ffn_size=m.moe.moe_ffn,
        shared_experts=m.moe.shared,
        first_dense_layers=m.moe.first_dense_layers,
        every=m.moe.every,
    )


def _latent(attention: str | None) -> LatentAttention | None:
    """Read `MLA q_lora1536 kv_lora512 nope128 rope64 v128`; sizes left out are DeepSeek-V3's."""
    if attention is None or "MLA" not in attention:
        return None
    usual = {"q_lora": 1536, "kv_lora": 512, "nope": 128, "rope": 64, "v": 128}
    sizes = {
        name: int(found[1]) if (found := re.search(rf"\b{name}(\d+)", attention)) else default
        for name, default in usual.items()
    }
    return LatentAttention(
        query_rank=sizes["q_lora"],
        kv_rank=sizes["kv_lora"],
        nope_size=sizes["nope"],
        rope_size=sizes["rope"],
        value_size=sizes["v"],
    )


def _lora_rank(case: Case) -> int:
    """The rank of a LoRA task, which its notes tell; 16 where they don't."""
    if case.task != "LoRA":
        return 0
    found = re.search(r"rank (\d+)", case.notes)
    return int(found[1]) if found else 16


def _precision(text: str, cluster: Cluster) -> Precision:
    text = text.lower()
    peaks = cluster.accelerator.peak_flop_per_s
    if "fp4" in text and "possible" not in text and peaks.fp4 is not None:
        return "fp4"
    if any(word in text for word in LOW_PRECISION):
        return "fp8" if peaks.fp8 is not None else "bf16"
    if "fp16" in text and "bf16" not in text:
        return "fp16"
    return "bf16" if peaks.bf16 is not None else "fp16"


def _plan(case: Case, stack: Stack, workload: Workload, assumed: list[str]) -> Plan:
    p, n = case.parallel, case.hardware.n_accelerators
    tp, pp, cp = p.tp or 1, p.pp or 1, p.cp or 1
    if p.tp is None and p.dp is None:
        raise ParplanError("parallel: neither tp nor dp is given")
    dp = n // (tp * pp * cp)
    if dp < 1 or dp * tp * pp * cp != n:
        raise ParplanError(f"parallel: tp {tp} x pp {pp} x cp {cp} does not divide {n}")
    micro_batch, count = _micro_batches(p, dp, workload.global_batch, assumed)
    chunks = _chunks(case, assumed)
    schedule = _schedule(p, pp, chunks, assumed)
    again = _recomputation(p.recompute, workload.model.num_layers // (pp * chunks), assumed)
    layers = _stage_layers(stack, workload.model.num_layers, pp * chunks)
    return Plan(
        num_stages=pp,
        num_micro_batches=count,
        batch_per_device=micro_batch,
        data_parallel=dp,
        tensor_parallel=tp,
        sequence_parallel=bool(p.sp) and tp > 1,
        context_parallel=cp,
        expert_parallel=p.ep or 1 if workload.model.moe else 1,
        expert_tensor_parallel=_expert_split(case, tp, dp * cp, assumed),
        recomputation=again.level,
        recomputed_ops=again.ops,
        recomputed_layers=again.layers,
        **zero_fields(_zero_stage(p, pp, stack)),  # type: ignore[arg-type]
        shard_group=_shard_group(p, dp * cp),
        gradient_dtype="fp32" if stack.fp32_gradients else "as computed",
        overlap_gradient_reduction=stack.overlap_gradient_reduction,
        overlap_parameter_gather=stack.overlap_parameter_gather,
        overlap_tensor_parallel=stack.overlap_tensor_parallel,
        schedule=schedule,
        virtual_stages=chunks,
        stage_layers=layers,
    )


def _expert_split(case: Case, tp: int, replicas: int, assumed: list[str]) -> int | None:
    """Tensor parallelism within an expert, where the rest's cannot be meant."""
    p = case.parallel
    if case.model.moe is None or p.etp is not None:
        return p.etp
    if replicas * tp % ((p.ep or 1) * tp) == 0:
        return None
    assumed.append("experts without tensor parallelism")
    return 1


def _micro_batches(
    p: CaseParallel, dp: int, global_batch: int, assumed: list[str]
) -> tuple[int, int]:
    """The size of a micro-batch, and how many each pipeline takes in a step."""
    size = p.micro_batch
    if size is None and p.n_microbatches:
        size = global_batch / dp / p.n_microbatches
    if size is None:
        size = 1
        assumed.append("micro-batches of one sequence")
    own, rest = divmod(global_batch, dp)
    if rest or own < 1:
        raise ParplanError(
            f"parallel: a global batch of {global_batch} cannot be split over {dp} replicas"
        )
    size = max(1, int(size))
    if own % size:
        raise ParplanError(f"parallel.micro_batch: {size} does not divide {own}")
    return size, own // size


def _chunks(case: Case, assumed: list[str]) -> int:
    """Chunks of a rank; where a table leaves them out, those that its notes tell of the others."""
    found = re.search(r"VP printed NA in this release, (\d+) in the others", case.notes)
    if found and (case.parallel.vpp or 1) == 1:
        assumed.append(f"{found[1]} chunks a rank, as in other releases of the table")
        return int(found[1])
    return case.parallel.vpp or 1


def _zero_stage(p: CaseParallel, stages: int, stack: Stack) -> int:
    """Of a pipeline that gathers its parameters once a step, 2 instead of 3."""
    stage = p.zero_stage or 0
    return min(stage, 2) if stages > 1 and stack.pipelines_keep_parameters else stage


def _schedule(p: CaseParallel, stages: int, chunks: int, assumed: list[str]) -> str:
    name = (p.schedule or "").lower()
    if stages == 1:
        return "1f1b"
    if "interleaved" in name or "1f1b-i" in name or chunks > 1:
        if p.vpp is None:
            assumed.append("one chunk a rank")
        return "interleaved-1f1b" if chunks > 1 else "1f1b"
    return {"zb-1p": "zb-h1", "zb-2p": "zb-h2", "zb-v": "zb-v"}.get(name, "1f1b")


class _Recomputation(NamedTuple):
    level: Recomputation
    ops: tuple[str, ...] = ("attention",)
    layers: int | None = None


def _recomputation(text: str | None, stage_layers: int, assumed: list[str]) -> _Recomputation:
    """Translate the words of a case into a recomputation setting for stages of so many layers."""
    words = (text or "").lower()
    if "maxtext" in words:
        # MaxText's configs/base.yml: remat_policy 'full', unless a recipe names another one.
        assumed.append(f"full recomputation, MaxText's default (source: {text})")
        return _Recomputation("full")
    if not words or "unstated" in words or "custom" in words or "default for" in words:
        assumed.append(f"no recomputation (source: {text})")
        return _Recomputation("none")
    if words.startswith("full"):
        found = re.search(r"layers (\d+)", words)
        return _Recomputation("full", layers=int(found[1]) if found else None)
    if "every 2nd layer" in words:
        return _Recomputation("full", layers=stage_layers // 2)
    if words.startswith(("selective modules", "none or layernorm")):
        return _Recomputation("selective", _modules(words))
    if "per-op" in words or "toml default" in words:
        return _Recomputation("selective", EVERY_SECOND_PRODUCT)
    if words.startswith(("minimal", "save_dot")):
        # Products are kept, what lies between them is computed again.
        return _Recomputation("selective", BETWEEN_PRODUCTS)
    return _Recomputation("selective" if words.startswith("selective") else "none")


def _modules(words: str) -> tuple[str, ...]:
    named = re.findall("|".join(sorted(MODULES, key=len, reverse=True)), words)
    return tuple(op for name in dict.fromkeys(named) for op in MODULES[name])


def _shard_group(p: CaseParallel, replicas: int) -> int | None:
    size = p.fsdp or None
    if p.zero_group and (found := re.match(r"(\d+) GPUs", p.zero_group)):
        size = int(found[1])
    return size if size and size < replicas and replicas % size == 0 else None


def _stage_layers(stack: Stack, layers: int, stages: int) -> tuple[int, ...] | None:
    """Layers of each stage where the ends have one fewer, or where the layers do not divide."""
    if stages == 1:
        return None
    if stack.ends_as_layers:
        return layers_with_ends(layers, stages, stack.ends_as_layers)
    if layers % stages and (layers + 2) % stages == 0:
        return layers_with_ends(layers, stages, 2)
    return None


def _given(value: int | None, name: str) -> int:
    if value is None:
        raise ParplanError(f"{name}: is not given")
    return value
