"""Settings of MaxText that its importer does not read, by what they bear on.

Names: base.yml of MaxText from 2023 to August 2026. `checkpoint_*` is all that begins so.
"""

from parplan.experiments.interop.keys.effects import NotModelled, by_reason

NO_EFFECT = by_reason(
    {
        "logging and profiling": """
run_name base_output_directory metrics_file gcs_metrics enable_wandb wandb_* save_config_to_gcs
record_internal_nn_metrics log_* enable_tensorboard tensorboard_* profiler profiler_* upload_all_*
skip_first_n_steps_for_profiler profile_* goodput_* enable_goodput_* monitor_* enable_gcp_*
report_* vertex_* dump_* hlo_* target_eval_loss enable_jax_profiler jax_profiler_port
debug_sharding run_colab_name enable_gcp_workload_monitoring config base_config
base_config_name""",
        "checkpoints": """
load_* save_* *checkpoint* max_num_checkpoints_to_keep force_unroll enable_orbax_* use_replicator*
lora_input_adapters_path hf_lora_adapter_path hf_access_token hf_path local_checkpoint_* mtc_*""",
        "validation and generation": """
eval_* decode_* prefill_* autoregressive_* inference_* sampl* max_prefill_predict_length prompt
prompt_* kv_cache* quantize_kvcache kv_quant_* ar_* prefill_cache_* stack_prefill_* use_vllm*
return_log_prob kv_* multi_sampling model_call_mode page* attention_kernel_*""",
        "learning rate, and how long it trains": """
steps learning_rate* lr_* warmup_* cosine_* wsd_* num_epoch step_* cooldown_*""",
        "numbers of the optimizer and of the loss": """
adam_* muon_beta muon_weight_decay muon_consistent_rms gradient_clipping_threshold z_loss*
weight_decay load_balance_loss_weight mtp_loss_scaling_factor mtp_eval_target_module dpo_*
trainable_parameters_mask""",
        "initial values": "init_weights_seed dense_init_scale enable_data_shuffling data_shuffle_*",
        "the data set, which is taken to be read in time": """
dataset_* dataset train_* tokenizer_* tokenize_* add_bos add_eos use_truncation grain_* hf_*
packing reuse_example_batch max_segments_per_seq max_corpus_chars expansion_factor_real_data
vocab_relative_path per_epoch* olmo_* generate_padding_batch_* colocated_python_data_input
enable_padding_causal_mask c4_* data_sharding input_data_sharding_logical_axes chat_template_path
use_chat_template default_prompt""",
        "how processes find each other": """
jax_* skip_jax_distributed_system hardware compile_topology compile_topology_num_slices
compiled_trainstep_file num_slices max_inflight_computations enable_single_controller
enable_pathways_* sharding_tolerance inter_node_strategy allow_split_physical_axes
optimize_mesh_for_tpu_v6e xla_* compile_xla_flags internal_compile*
enable_emergency_* hybrid_sharding_*""",
        "how layers are compiled": """
scan_layers param_scan_axis scan_* set_remat_policy_on_* shard_mode constant_bound_config
use_iota_embed fused_qkv fused_mlp sa_* use_splash_* megablox sparse_matmul tile_* wi_tile_*
wo_tile_* use_ragged_* use_jax_splash use_tokamax_* causal_block_size use_max_logit_estimate
cost_estimate_flops_* ragged_* use_custom_sort_vjp replicate_quant_scale use_qwix_quantization
quant_cfg_path aqt_* checkpoint_is_quantized matmul_precision""",
        "numbers of the model": """
normalization_layer_epsilon rope_* use_rope* mscale beta_fast beta_slow yarn_* original_max_*
max_position_embeddings attn_logits_soft_cap final_logits_soft_cap logits_dot_in_fp32
cast_logits_to_fp32 float32_* activations_in_float32 normalize_embedding_logits temperature_tuning
local_rope_* routed_* norm_topk_prob n_routing_groups topk_routing_group query_pre_attn_scalar
mlp_activations_limit attention_sink model_fsdp_ag_once position_id_per_seconds dropout_rate
embed_scale* partial_rotary_factor rope_interleave rope_truncate bias_* logit_scale*""",
        "no effect with a published model": "override_model_config override_logical_axis_rules",
    }
)

NOT_MODELLED = {
    "use_multimodal": NotModelled("a language model alone"),
    "use_dpo": NotModelled("one model is trained on whole sequences"),
    "use_sft": NotModelled("sequences are full"),
    "use_grpo": NotModelled("one model is trained on whole sequences"),
    "mtp_num_layers": NotModelled("no layers for further tokens"),
    "capacity_factor": NotModelled("no tokens are dropped"),
    "parameter_memory_host_offload": NotModelled("parameters stay on the device"),
    "num_vocab_tiling": NotModelled("the loss works on whole sequences", (1,)),
    "custom_mesh": NotModelled("tiers are those of the cluster"),
    "custom_mesh_and_rule": NotModelled("axes are those of base.yml"),
    "logical_axis_rules": NotModelled("axes are those of base.yml"),
    "mesh_axes": NotModelled("axes are those of base.yml"),
    "use_ring_of_experts": NotModelled("experts exchange tokens once"),
    "use_batch_split_schedule": NotModelled("a micro-batch is not split"),
    "pipeline_delay_activation_forwarding": NotModelled("activations go on at once"),
    "pipeline_fsdp_ag_once": NotModelled("parameters are gathered in every pass"),
    "pipeline_parallel_layers": NotModelled("all layers are in the pipeline"),
    "enable_rampup_batch_size": NotModelled("the batch is the whole one"),
    "mu_dtype": NotModelled("optimizer state is fp32", ("float32",)),
    "grad_dtype": NotModelled("gradients are fp32", ("float32",)),
    "weight_dtype": NotModelled("masters are fp32", ("float32",)),
    "te_comm_gemm_overlap": NotModelled("exchanges within layers are not overlapped"),
    "context_parallel_strategy": NotModelled("a ring", ("all_gather", "ring")),
    "context_parallel_load_balance": NotModelled("parts are even", (True,)),
}
