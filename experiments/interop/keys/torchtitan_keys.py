"""Keys of a torchtitan TOML that its importer does not read, by what they bear on.

Names: torchtitan/config_manager.py of April 2024 to August 2025, torchtitan/config/job_config.py
up to 0.2.2.
"""

from parplan.experiments.interop.keys.effects import NotModelled, by_reason

NO_EFFECT = by_reason(
    {
        "logging and profiling": """
job.* metrics.* profiling.* profiler.* comm.* memory_estimation.* validation.* validator.*
debug.print_config debug.save_config_file debug.enable_structured_logging training.gc_freq
training.gc_debug model.print_after_conversion""",
        "checkpoints": "checkpoint.*",
        "numbers of the optimizer": """
optimizer.lr optimizer.fused optimizer.beta1 optimizer.beta2 optimizer.eps optimizer.weight_decay
training.max_norm""",
        "learning rate": "lr_scheduler.* training.warmup_steps",
        "how long it trains": "training.steps",
        "initial values": "training.seed debug.seed debug.deterministic_warn_only",
        "the data set, which is taken to be read in time": """
training.dataset training.dataset_path model.tokenizer_path model.hf_assets_path dataloader.*
training.num_workers""",
        "how numbers of 8 bits are scaled": """
float8.precompute_float8_dynamic_scale_for_fsdp float8.scaling_type_input
float8.scaling_type_weight float8.scaling_type_grad_output float8.recipe_name
float8.force_recompute_fp8_weight_in_bwd float8.emulate
quantize.linear.float8.precompute_float8_dynamic_scale_for_fsdp
quantize.linear.float8.recipe_name quantize.linear.float8.emulate
quantize.linear.mx.recipe_name quantize.linear.mx.mxfp8_dim1_cast_kernel_choice
quantize.grouped_mm.mx.recipe_name mx.recipe_name mx.use_fp8_dim1_cast_triton_kernel
mx.mxfp8_dim1_cast_kernel_choice
training.precompute_float8_dynamic_scale_for_fsdp""",
        "which layers have products of 8 bits; all are taken to": """
float8.filter_fqns float8.moe_fqns_prototype mx.filter_fqns mx.moe_fqns_prototype
quantize.linear.float8.filter_fqns quantize.linear.mx.filter_fqns
quantize.grouped_mm.float8.fqns quantize.grouped_mm.mx.fqns""",
        "only with selective recomputation by operation": """
activation_checkpoint.per_op_sac_force_recompute_mm_shapes_by_fqns
activation_checkpoint.preserve_rng_state activation_checkpoint.determinism_check
activation_checkpoint.early_stop activation_checkpoint.debug
activation_checkpoint.visualize_memory_budget_pareto""",
        "which backend compiles": "compile.backend parallelism.spmd_backend",
        "experts are taken to be met equally": """
debug.moe_force_load_balance training.debug_moe_force_load_balance""",
        "where its parts come from": """
experimental.custom_import experimental.custom_args_module experimental.custom_model_path
experimental.pipeline_parallel_split_mode""",
        "with dualpipe-v alone": "parallelism.pipeline_parallel_expert_parallel_overlap",
    }
)

_LOCAL = "parameters are gathered in 16 bits"
NOT_MODELLED = {
    "activation_checkpoint.memory_budget": NotModelled("the mode alone counts", (0.5,)),
    "model.norm_type": NotModelled("normalisations are those of the model", ("rmsnorm",)),
    "model.use_flex_attn": NotModelled("every token attends to all before it"),
    "model.attn_mask_type": NotModelled("every token attends to all before it", ("causal",)),
    "training.deterministic": NotModelled("kernels are the fast ones"),
    "debug.deterministic": NotModelled("kernels are the fast ones"),
    "debug.batch_invariant": NotModelled("kernels are the fast ones"),
    "debug.detect_anomaly": NotModelled("gradients are not searched"),
    "training.dtype": NotModelled("masters and optimizer state are fp32", ("float32",)),
    "training.mixed_precision_reduce": NotModelled("gradients are reduced in fp32", ("float32",)),
    "training.disable_cuda_graphs": NotModelled("kernels are launched one by one", (True,)),
    "training.disable_loss_parallel": NotModelled("each rank has its part of the vocabulary"),
    "training.enable_loss_parallel": NotModelled(
        "each rank has its part of the vocabulary", (True,)
    ),
    "parallelism.disable_loss_parallel": NotModelled("each rank has its part of the vocabulary"),
    "parallelism.enable_compiled_autograd": NotModelled("autograd is not compiled"),
    "experimental.enable_compiled_autograd": NotModelled("autograd is not compiled"),
    "parallelism.enable_fsdp_symm_mem": NotModelled("collectives are those of the fabric"),
    "parallelism.context_parallel_rotate_method": NotModelled(
        "keys and values go round a ring", ("allgather",)
    ),
    "experimental.context_parallel_rotate_method": NotModelled(
        "keys and values go round a ring", ("allgather",)
    ),
    "parallelism.context_parallel_load_balancer": NotModelled(
        "context-parallel ranks have equal work", ("headtail",)
    ),
    "optimizer.implementation": NotModelled("the optimizer is fused", ("fused", "foreach")),
    "optimizer.early_step_in_backward": NotModelled("the optimizer steps after the backward"),
    "float8.enable_fsdp_float8_all_gather": NotModelled(_LOCAL),
    "training.enable_fsdp_float8_all_gather": NotModelled(_LOCAL),
    "quantize.linear.float8.enable_fsdp_float8_all_gather": NotModelled(_LOCAL),
    "fault_tolerance": NotModelled("replicas are reduced in every step"),
    "experimental.custom_config_module": NotModelled("its settings are not known"),
    "job.custom_config_module": NotModelled("its settings are not known"),
}
