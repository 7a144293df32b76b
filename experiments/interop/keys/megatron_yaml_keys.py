"""Names in YAML for Megatron that are not those of its arguments with other letters.

Names: megatron_gpt_config.yaml of NeMo 1.2 to 1.23, ConfigContainer of Megatron-Bridge 0.1 to 0.4,
gpt_config.yaml of Megatron-LM core 0.7 to 0.15.
"""

from parplan.experiments.interop.keys.effects import by_reason

RENAMED = {
    "num_moe_experts": "--num-experts",
    "encoder_seq_length": "--seq-length",
    "activations_checkpoint_granularity": "--recompute-granularity",
    "activations_checkpoint_method": "--recompute-method",
    "activations_checkpoint_num_layers": "--recompute-num-layers",
    "num_layers_in_first_pipeline_stage": "--decoder-first-pipeline-num-layers",
    "num_layers_in_last_pipeline_stage": "--decoder-last-pipeline-num-layers",
    "layernorm_epsilon": "--norm-epsilon",
    "rotary_percentage": "--rotary-percent",
    "seq_len_interpolation_factor": "--rotary-seq-len-interpolation-factor",
    "sequence_length": "--seq-length",
    "transformer_block_type": "--transformer-block-type",
}

ON = {
    "gated_linear_unit": "--swiglu",
    "ub_tp_comm_overlap": "--tp-comm-overlap",
    "use_flash_attention": "--use-flash-attn",
    "cpu_offloading": "--cpu-offloading-num-layers",
    "overlap_grad_sync": "--overlap-grad-reduce",
    "overlap_param_sync": "--overlap-param-gather",
    "fsdp": "--use-torch-fsdp2",
    "qk_layernorm": "--qk-layernorm",
    "add_qkv_bias": "--add-qkv-bias",
}
"""Switches that are an argument where they are on."""

OFF = {
    "add_bias_linear": "--disable-bias-linear",
    "bias": "--disable-bias-linear",
    "share_embeddings_and_output_weights": "--untie-embeddings-and-output-weights",
    "gradient_accumulation_fusion": "--no-gradient-accumulation-fusion",
    "apply_rope_fusion": "--no-rope-fusion",
    "bias_swiglu_fusion": "--no-bias-swiglu-fusion",
    "masked_softmax_fusion": "--no-masked-softmax-fusion",
    "bias_dropout_fusion": "--no-bias-dropout-fusion",
    "persist_layer_norm": "--no-persist-layer-norm",
}
"""Switches that are an argument where they are off."""

SECTIONS_WITHOUT_EFFECT = by_reason(
    {
        "logging and profiling": """
logger exp_manager profiling hydra name straggler nvrx_straggler model.nsys_profile
model.memory_profile model.megatron_timer_kwargs tensor_inspect defaults""",
        "checkpoints": "checkpoint s3_checkpointing restore ft inprocess_restart",
        "the data set, which is taken to be read in time": """
dataset tokenizer model.tokenizer model.data data""",
        "learning rate": "scheduler model.optim.sched optim.sched",
        "validation": "validation",
        "initial values": "rng",
        "how processes find each other": "run env_vars dist.distributed_backend",
    }
)

NO_EFFECT = by_reason(
    {
        "logging and profiling": """
enable_checkpointing use_distributed_sampler max_epochs max_steps max_time log_every_n_steps
val_check_interval limit_val_batches limit_test_batches benchmark enable_model_summary
apex_transformer_log_level enable_megatron_timers accelerator num_sanity_val_steps
accumulate_grad_batches check_for_nan_in_grad check_for_large_grads""",
        "checkpoints": """
restore_from_path restore_from_ckpt resume_from_checkpoint skip_train dist_ckpt_format
dist_ckpt_load_on_device dist_ckpt_parallel_save dist_ckpt_parallel_save_within_dp
dist_ckpt_parallel_load dist_ckpt_torch_dist_multiproc dist_ckpt_assume_constant_structure
dist_ckpt_parallel_dist_opt dist_ckpt_load_strictness save_nemo_on_validation_end""",
        "numbers of the optimizer": """
lr betas beta1 beta2 eps weight_decay gradient_clip_val min_lr momentum adam_beta1 adam_beta2
adam_eps clip_grad max_lr warmup_steps constant_steps
native_amp_init_scale native_amp_growth_interval hysteresis sgd_momentum""",
        "initial values": """
seed use_cpu_initialization init_method init_method_std use_scaled_init_method
output_layer_init_method perform_initialization revision load_weights trust_remote_code""",
        "numbers of the model": """
headscale openai_gelu transformer_block_type logits_soft_cap attn_logit_softcapping
final_logit_softcapping query_pre_attn_scalar apply_embedding_scaling
normalize_attention_scores do_layer_norm_weight_decay
apply_query_key_layer_scaling attention_softmax_in_fp32 scale_positional_embedding
layernorm_zero_centered_gamma rotary_interleaved ffn_dropout fp32_residual_connection
attention_type apply_residual_connection_post_layernorm layernorm_zero_centered_gamma
moe_aux_loss_coeff moe_z_loss_coeff moe_router_load_balancing_type moe_input_jitter_eps""",
        "kernels are taken to be fused": """
bias_activation_fusion bias_dropout_add_fusion grad_div_ar_fusion get_attention_mask_from_fusion
transformer_engine use_emha memory_efficient_layer_norm moe_grouped_gemm
cross_entropy_loss_fusion cross_entropy_fusion_impl moe_permute_fusion
clone_scatter_output_in_embedding""",
        "how pieces are sent": """
overlap_p2p_comm batch_p2p_comm sync_batch_comm gradient_as_bucket_view
grad_allreduce_chunk_size_mb nccl_communicator_config_path validation_param_sync_overlap
bucket_cap_mb contiguous_grad_buffer variable_seq_lengths deallocate_pipeline_outputs
batch_p2p_sync use_ring_exchange_p2p average_in_collective grad_sync_dtype overlap_p2p_comm
param_sync_dtype ub_tp_comm_overlap_cfg""",
        "how numbers of 8 bits are scaled": """
fp8_margin fp8_interval fp8_amax_history_len fp8_amax_compute_algo reduce_amax fp8_wgrad
fp8_e4m3 fp8_hybrid fp8_recipe fp8_dot_product_attention fp8_multi_head_attention""",
        "where parts of the model lie, with one program for all": """
pre_process post_process mcore_gpt megatron_amp_O2 onnx_safe autocast_dtype pipeline_dtype
params_dtype enable_autocast legacy make_vocab_size_divisible_by_""",
        "how long it trains": "train_iters exit_interval exit_duration_in_mins manual_gc "
        "gc_interval manual_gc_interval manual_gc_eval eval_iters eval_interval",
        "comments": "_target_",
    }
)
