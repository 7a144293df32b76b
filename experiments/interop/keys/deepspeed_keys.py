"""Keys of a DeepSpeed JSON that its importer does not read, by what they bear on.

Names: deepspeed/runtime/config.py, constants.py and zero/config.py of DeepSpeed 0.3 to 0.19.
"""

from parplan.experiments.interop.keys.effects import NotModelled, by_reason

NO_EFFECT = by_reason(
    {
        "logging and profiling": """
steps_per_print wall_clock_breakdown memory_breakdown dump_state log_level verbose timers.*
tensorboard.* wandb.* comet.* csv_monitor.* monitor_config.* comms_logger.* comms_config.*
flops_profiler.*
zero_optimization.log_trace_cache_warnings zero_optimization.enable_sanity_checks""",
        "numbers of the optimizer": """
optimizer.params.* optimizer.legacy_fusion gradient_clipping prescale_gradients
gradient_predivide_factor gradient_allreduce_op zero_allow_untested_optimizer
zero_force_ds_cpu_optimizer managed_gradient_accumulation""",
        "learning rate": "scheduler.* scheduler",
        "scaling of the loss": """
fp16.loss_scale fp16.initial_scale_power fp16.loss_scale_window fp16.hysteresis
fp16.consecutive_hysteresis fp16.min_loss_scale fp16.auto_cast fp16.opt_level
bf16.check_grad_overflow bfloat16.loss_scale bf16.loss_scale bf16.initial_scale_power
bf16.loss_scale_window bf16.hysteresis bf16.min_loss_scale bf16.auto_cast
bfloat16.initial_scale_power""",
        "checkpoints": """
checkpoint.* nebula.* datastates_ckpt.* load_universal_checkpoint
zero_optimization.elastic_checkpoint zero_optimization.load_from_fp32_weights
zero_optimization.stage3_gather_16bit_weights_on_model_save
zero_optimization.stage3_gather_fp16_weights_on_model_save
zero_optimization.gather_16bit_weights_on_model_save
zero_optimization.gather_fp16_weights_on_model_save
zero_optimization.pipeline_loading_checkpoint
zero_optimization.save_muon_momentum_buffer_in_memory use_node_local_storage""",
        "buckets and pieces, which are taken to be those of a block": """
zero_optimization.reduce_bucket_size zero_optimization.allgather_bucket_size
zero_optimization.contiguous_gradients zero_optimization.allgather_partitions
zero_optimization.use_multi_rank_bucket_allreduce zero_optimization.round_robin_gradients
zero_optimization.override_module_apply zero_optimization.grad_hooks
zero_optimization.ignore_unused_parameters zero_optimization.legacy_stage1
zero_optimization.memory_efficient_linear zero_optimization.sub_group_size sub_group_size
zero_optimization.stage3_max_reuse_distance zero_optimization.max_reuse_distance
zero_optimization.module_granularity_threshold
zero_optimization.stage3_module_granularity_threshold zero_optimization.leaf_module.*
zero_optimization.mics_hierarchical_params_gather""",
        "how the host's memory is used": """
zero_optimization.offload_optimizer.pin_memory zero_optimization.offload_optimizer.nvme_path
zero_optimization.offload_optimizer.buffer_count zero_optimization.offload_optimizer.buffer_size
zero_optimization.offload_optimizer.fast_init zero_optimization.offload_optimizer.pipeline_read
zero_optimization.offload_optimizer.pipeline_write zero_optimization.offload_optimizer.pipeline
zero_optimization.cpu_offload_use_pin_memory aio.*""",
        "the data set, which is taken to be read in time": "dataloader_drop_last data_types_file",
        "a search for settings": "autotuning.* elasticity.*",
        "text generation": "hybrid_engine.*",
        "what comments say": "comment _comment",
    }
)

NOT_MODELLED = {
    "amp": NotModelled("the precision is that of bf16 and fp16 alone"),
    "fp8": NotModelled("products are in the precision of bf16 and fp16"),
    "torch_autocast": NotModelled("the precision is that of bf16 and fp16 alone"),
    "zero_optimization.offload_param": NotModelled("parameters stay on the device"),
    "zero_optimization.cpu_offload_params": NotModelled("parameters stay on the device"),
    "zero_optimization.cpu_offload_param": NotModelled("parameters stay on the device"),
    "zero_optimization.offload_optimizer.ratio": NotModelled("all of it is offloaded", (1, 1.0)),
    "zero_optimization.offload_optimizer.super_offload": NotModelled("the host takes the step"),
    "zero_optimization.zenflow": NotModelled("the host takes the step at once"),
    "zero_optimization.zero_hpz_partition_size": NotModelled(
        "parameters are gathered from all replicas", (1,)
    ),
    "zero_optimization.zero_quantized_weights": NotModelled("parameters are gathered in 16 bits"),
    "zero_optimization.zero_quantized_nontrainable_weights": NotModelled(
        "parameters are gathered in 16 bits"
    ),
    "zero_optimization.zero_quantized_gradients": NotModelled(
        "gradients are reduced in the dtype of gradient_dtype"
    ),
    "zero_optimization.zeropp_loco_param": NotModelled("gradients are reduced as they are"),
    "zero_optimization.stage3_param_persistence_threshold": NotModelled(
        "all parameters are sharded", (100_000, 10_000, 1_000_000, 1_000)
    ),
    "zero_optimization.param_persistence_threshold": NotModelled(
        "all parameters are sharded", (100_000, 10_000, 1_000_000, 1_000)
    ),
    "zero_optimization.stage3_model_persistence_threshold": NotModelled(
        "all parameters are sharded"
    ),
    "zero_optimization.stage3_max_live_parameters": NotModelled(
        "one block is gathered ahead", (1_000_000_000,)
    ),
    "zero_optimization.max_live_parameters": NotModelled(
        "one block is gathered ahead", (1_000_000_000,)
    ),
    "zero_optimization.stage3_prefetch_bucket_size": NotModelled(
        "one block is gathered ahead", (50_000_000,)
    ),
    "zero_optimization.prefetch_bucket_size": NotModelled(
        "one block is gathered ahead", (50_000_000,)
    ),
    "zero_optimization.reduce_scatter": NotModelled(
        "sharded gradients are reduced to their owners", (True,)
    ),
    "bf16.bf16_master_weights_and_grads": NotModelled("masters and gradients are fp32"),
    "bf16.bf16_optimizer_states": NotModelled("optimizer state is fp32"),
    "bf16.immediate_grad_update": NotModelled("16-bit gradients lie beside those in fp32", (True,)),
    "fp16.fp16_master_weights_and_grads": NotModelled("masters and gradients are fp32"),
    "activation_checkpointing.partition_activations": NotModelled(
        "what is kept of a block is whole on every tensor-parallel rank"
    ),
    "activation_checkpointing.cpu_checkpointing": NotModelled(
        "what is kept of a block stays on the device; --set offload_activations=true"
    ),
    "seq_parallel_communication_data_type": NotModelled(
        "exchanges of sequences are in the precision of the activations",
        ("bf16", "bfloat16", "fp16"),
    ),
    "sequence_parallel_size": NotModelled("sequences are whole on every rank", (1,)),
    "sequence_parallel": NotModelled("sequences are whole on every rank"),
    "sparse_gradients": NotModelled("gradients of embeddings are dense"),
    "sparse_attention": NotModelled("every token attends to all before it"),
    "progressive_layer_drop": NotModelled("every step has all layers"),
    "curriculum_learning": NotModelled("every step has whole sequences"),
    "data_efficiency": NotModelled("every step has whole sequences and all layers"),
    "compression_training": NotModelled("weights are not compressed"),
    "weight_quantization": NotModelled("weights are not compressed"),
    "quantize_training": NotModelled("weights are not compressed"),
    "eigenvalue": NotModelled("no eigenvalues are computed"),
    "compile": NotModelled("kernels are those of --software"),
    "pipeline": NotModelled("stages are those of --set num_stages"),
    "expert_parallel": NotModelled("give --set expert_parallel"),
    "use_data_before_expert_parallelism": NotModelled("ranks of experts lie side by side"),
    "disable_allgather": NotModelled("parameters are gathered"),
    "graph_harvesting": NotModelled("kernels are launched one by one"),
}

NO_EFFECT |= by_reason(
    {
        "which layers are tensor-parallel": """
tensor_parallel.preset_model tensor_parallel.partition_config.* tensor_parallel.dtype
tensor_parallel.tp.* tensor_parallel.tp_size tensor_parallel.enabled
tensor_parallel.keep_module_on_host tensor_parallel.replace_with_kernel_inject""",
        "only with recomputation, which the program asks for": """
activation_checkpointing.contiguous_memory_optimization
activation_checkpointing.synchronize_checkpoint_boundary activation_checkpointing.profile
activation_checkpointing.number_checkpoints""",
    }
)
