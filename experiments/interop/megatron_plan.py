"""A plan as settings of Megatron-LM and Megatron-Bridge, and what they leave out."""

from parplan.experiments.interop.megatron_settings import MegatronSetting
from parplan.sim.plan import Plan
from parplan.sim.workload import Workload

SELECTIVE = {
    "attention": "core_attn",
    "attention norm": "layernorm",
    "mlp norm": "layernorm",
    "experts activation": "moe_act",
    "kv up": "mla_up_proj",
    "query up": "mla_up_proj",
}
"""Operations of a block, and what `--recompute-modules` calls the part that they are in."""

WHOLE = {
    "mlp": ("mlp up", "mlp activation", "mlp down"),
    "shared_experts": ("shared experts up", "shared experts activation", "shared experts down"),
    "moe": ("router", "dispatch", "experts up", "experts activation", "experts down", "combine"),
}
"""Modules of several operations, named where all of them are recomputed."""

OFFLOADED = ("attn_norm", "qkv_linear", "core_attn", "attn_proj", "mlp_norm")

FSDP = {2: "optim_grads", 3: "optim_grads_params"}
"""`--data-parallel-sharding-strategy` by ZeRO stage."""

Settings = tuple[list[MegatronSetting], list[str]]


def plan_settings(plan: Plan, workload: Workload) -> Settings:
    """Degrees, batches, pipeline, recomputation, sharding, overlap."""
    parts = [
        _degrees(plan),
        _batches(plan, workload),
        _pipeline(plan, workload),
        _recomputation(plan),
        _sharding(plan),
        _overlap(plan),
        _offloading(plan),
    ]
    return [s for part, _ in parts for s in part], [u for _, lines in parts for u in lines]


def _degrees(plan: Plan) -> Settings:
    found = [
        MegatronSetting(
            "--tensor-model-parallel-size", "model.tensor_model_parallel_size", plan.tensor_parallel
        ),
        MegatronSetting(
            "--pipeline-model-parallel-size", "model.pipeline_model_parallel_size", plan.num_stages
        ),
        MegatronSetting(
            "--context-parallel-size", "model.context_parallel_size", plan.context_parallel
        ),
    ]
    if plan.expert_parallel > 1:
        name = "expert_model_parallel_size"
        found.append(
            MegatronSetting("--expert-model-parallel-size", f"model.{name}", plan.expert_parallel)
        )
    if plan.expert_tensor_parallel is not None:
        name, size = "expert_tensor_parallel_size", plan.expert_tensor_parallel
        found.append(MegatronSetting("--expert-tensor-parallel-size", f"model.{name}", size))
    if plan.sequence_parallel and plan.tensor_parallel > 1:
        found.append(MegatronSetting("--sequence-parallel", "model.sequence_parallel", True))
    return found, []


def _batches(plan: Plan, workload: Workload) -> Settings:
    return [
        MegatronSetting("--micro-batch-size", "train.micro_batch_size", plan.batch_per_device),
        MegatronSetting("--global-batch-size", "train.global_batch_size", workload.global_batch),
    ], []


def _pipeline(plan: Plan, workload: Workload) -> Settings:
    found, lines = [], []
    if plan.num_stages == 1:
        return [], []
    uneven = len(set(plan.layers_of_stages(workload.model.num_layers))) > 1
    if uneven:
        name = "pipeline_model_parallel_layout"
        layout = pipeline_layout(plan.layers_of_stages(workload.model.num_layers))
        found.append(MegatronSetting("--pipeline-model-parallel-layout", f"model.{name}", layout))
    if plan.virtual_stages > 1:
        flag = "" if uneven else "--num-virtual-stages-per-pipeline-rank"
        name = "virtual_pipeline_model_parallel_size"
        found.append(MegatronSetting(flag, f"model.{name}", plan.virtual_stages))
    wanted = "1f1b" if plan.virtual_stages == 1 else "interleaved-1f1b"
    if plan.schedule != wanted:
        lines.append(
            f"schedule {plan.schedule}: there are 1f1b and interleaved-1f1b alone; "
            f"it will run {wanted}"
        )
    if plan.virtual_stages > 1 and plan.num_micro_batches % plan.num_stages:
        lines.append(
            f"num_micro_batches {plan.num_micro_batches}: interleaving needs a multiple of "
            f"{plan.num_stages} unless microbatch_group_size_per_vp_stage is set"
        )
    return found, lines


def pipeline_layout(layers: tuple[int, ...]) -> str:
    """Layers of each stage as `Et*2|t*3|t*2L`: embedding, decoder layers, loss."""
    stages = [f"t*{count}" if count > 1 else "t" * count for count in layers]
    stages[0] = f"E{stages[0]}"
    stages[-1] = f"{stages[-1]}L"
    return "|".join(stages)


def _recomputation(plan: Plan) -> Settings:
    if plan.recomputation == "none":
        return [], []
    kind = MegatronSetting(
        "--recompute-granularity", "model.recompute_granularity", plan.recomputation
    )
    if plan.recomputation == "full":
        return _full(plan, kind)
    ops = plan.recomputed_ops
    whole = [name for name, parts in WHOLE.items() if set(parts) <= set(ops)]
    covered = {op for name in whole for op in WHOLE[name]}
    named = (SELECTIVE[op] for op in ops if op in SELECTIVE and op not in covered)
    modules = dict.fromkeys([*whole, *named])
    lines = [
        f"recomputed_ops {op}: no module of --recompute-modules is that operation"
        for op in ops
        if op not in SELECTIVE and op not in covered
    ]
    lines += [
        f"{name} {getattr(plan, name)}: selective recomputation is that of all layers"
        for name in ("recomputed_layers", "recomputed_of_stages")
        if getattr(plan, name) is not None
    ]
    return [
        kind,
        MegatronSetting("--recompute-modules", "model.recompute_modules", tuple(modules)),
    ], lines


def _full(plan: Plan, kind: MegatronSetting) -> Settings:
    """Recomputation of whole layers: all of them, or the first ones of every stage."""
    count, lines = plan.recomputed_layers, []
    if plan.recomputed_of_stages is not None:
        count = max(plan.recomputed_of_stages)
        lines.append(
            f"recomputed_of_stages {plan.recomputed_of_stages}: all stages recompute alike; "
            f"exported as {count}"
        )
    method = "uniform" if count is None else "block"
    count = 1 if count is None else count
    return [
        kind,
        MegatronSetting("--recompute-method", "model.recompute_method", method),
        MegatronSetting("--recompute-num-layers", "model.recompute_num_layers", count),
    ], lines


def _sharding(plan: Plan) -> Settings:
    split = plan.distribute_param and plan.replicas > 1
    name = "use_distributed_optimizer"
    found = [MegatronSetting("--use-distributed-optimizer", f"ddp.{name}", split)]
    if not split:
        # Recipes of Megatron-Bridge have it in both sections, of which one suffices.
        found.append(MegatronSetting("", f"optimizer.{name}", False))
    if plan.replicas == 1:
        return found, []
    lines = []
    if plan.zero_stage >= 2:
        strategy = FSDP[plan.zero_stage]
        found += [
            MegatronSetting("--use-megatron-fsdp", "dist.use_megatron_fsdp", True),
            MegatronSetting("", "ddp.use_megatron_fsdp", True),
            MegatronSetting(
                "--data-parallel-sharding-strategy", "ddp.data_parallel_sharding_strategy", strategy
            ),
            MegatronSetting("--ckpt-format", "checkpoint.ckpt_format", "fsdp_dtensor"),
        ]
        lines.append(
            f"distribute_gradient (ZeRO-{plan.zero_stage}): needs Megatron-FSDP, and "
            "CUDA_DEVICE_MAX_CONNECTIONS must not be 1"
        )
    if plan.shard_group is not None and plan.shard_group != plan.replicas:
        copies = plan.replicas // plan.shard_group
        name = "num_distributed_optimizer_instances"
        found.append(
            MegatronSetting("--num-distributed-optimizer-instances", f"ddp.{name}", copies)
        )
    return found, lines


def _overlap(plan: Plan) -> Settings:
    found, lines = [], []
    fp32 = plan.gradient_dtype == "fp32"
    found.append(
        MegatronSetting(
            "--accumulate-allreduce-grads-in-fp32" if fp32 else "--grad-reduce-in-bf16",
            "ddp.grad_reduce_in_fp32",
            True,
            fp32,
        )
    )
    if plan.replicas > 1:
        gather = plan.overlap_parameter_gather
        if plan.overlap_gradient_reduction:
            found.append(MegatronSetting("--overlap-grad-reduce", "ddp.overlap_grad_reduce", True))
        if gather and plan.distribute_param and plan.overlap_gradient_reduction:
            found.append(
                MegatronSetting("--overlap-param-gather", "ddp.overlap_param_gather", True)
            )
        elif gather:
            lines.append(
                "overlap_parameter_gather: needs a distributed optimizer and "
                "overlap_gradient_reduction"
            )
    if plan.overlap_tensor_parallel and plan.sequence_parallel:
        found.append(MegatronSetting("--tp-comm-overlap", "comm_overlap.tp_comm_overlap", True))
    elif plan.overlap_tensor_parallel:
        lines.append("overlap_tensor_parallel: needs sequence_parallel")
    return found, lines


def _offloading(plan: Plan) -> Settings:
    found, lines = [], []
    if plan.offload_optimizer:
        found += [
            MegatronSetting("--optimizer-cpu-offload", "optimizer.optimizer_cpu_offload", True),
            MegatronSetting(
                "--optimizer-offload-fraction", "optimizer.optimizer_offload_fraction", 1.0
            ),
            MegatronSetting(
                "--use-precision-aware-optimizer", "optimizer.use_precision_aware_optimizer", True
            ),
        ]
    if plan.offload_activations:
        name = "fine_grained_activation_offloading"
        found += [
            MegatronSetting("--fine-grained-activation-offloading", f"model.{name}", True),
            MegatronSetting("--offload-modules", "model.offload_modules", OFFLOADED),
        ]
        lines.append(
            "offload_activations: the inputs of attention and normalisations alone, "
            "not those of the MLP"
        )
    return found, lines
