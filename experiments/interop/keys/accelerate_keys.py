"""Keys of an Accelerate YAML that its importer does not read, by what they bear on.

Names: accelerate/commands/config/config_args.py, cluster.py and launch.py of Accelerate 0.12 to
1.15.
"""

from parplan.experiments.interop.keys.effects import NotModelled, by_reason

NO_EFFECT = by_reason(
    {
        "how processes find each other": """
compute_environment machine_rank main_process_ip main_process_port rdzv_backend same_network
main_training_function gpu_ids debug mpirun_config.* mpirun_config enable_cpu_affinity
command_file commands command num_cpu_threads_per_process use_mps_device tpu_name tpu_zone
tpu_use_cluster tpu_use_sudo tpu_env tpu_vm tpu_cluster env_vars
deepspeed_config.deepspeed_multinode_launcher deepspeed_config.deepspeed_hostfile
deepspeed_config.deepspeed_exclusion_filter deepspeed_config.deepspeed_inclusion_filter""",
        "of TPUs alone": "downcast_bf16",
        "checkpoints and initial values": """
fsdp_config.fsdp_state_dict_type fsdp_config.fsdp_sync_module_states
fsdp_config.fsdp_cpu_ram_efficient_loading deepspeed_config.zero3_init_flag
deepspeed_config.zero3_save_16bit_model megatron_lm_config.megatron_lm_no_load_optim
megatron_lm_config.megatron_lm_no_save_optim""",
        "gathers and reductions are taken to run beside the computation": """
fsdp_config.fsdp_forward_prefetch fsdp_config.limit_all_gathers""",
        "which modules are a unit; a block is taken to be one": """
fsdp_config.fsdp_transformer_layer_cls_to_wrap fsdp_config.fsdp_min_num_params
fsdp_config.fsdp_use_orig_params fsdp_config.use_orig_params
deepspeed_config.deepspeed_moe_layer_cls_names""",
        "numbers of the optimizer": """
deepspeed_config.gradient_clipping megatron_lm_config.megatron_lm_gradient_clipping
fsdp_config.fsdp_param_dtype fsdp_config.fsdp_output_dtype""",
        "where the optimizer lies on the host": """
deepspeed_config.offload_optimizer_nvme_path deepspeed_config.offload_param_nvme_path""",
        "kernels are those of --software": "dynamo_config.* dynamo_backend",
        "how numbers of 8 bits are scaled": "fp8_config.*",
        "which exchange splits sequences": """
parallelism_config.parallelism_config_sp_backend
parallelism_config.parallelism_config_sp_seq_length
parallelism_config.parallelism_config_sp_seq_length_is_variable
parallelism_config.parallelism_config_sp_attn_implementation
parallelism_config.parallelism_config_cp_backend""",
    }
)

NOT_MODELLED = {
    "use_cpu": NotModelled("the accelerators of the cluster train"),
    "ipex_config": NotModelled("the accelerators of the cluster train"),
    "fsdp_config.fsdp_backward_prefetch": NotModelled(
        "parameters are gathered one block ahead", ("backward_pre", "1")
    ),
    "fsdp_config.fsdp_backward_prefetch_policy": NotModelled(
        "parameters are gathered one block ahead", ("backward_pre", "1")
    ),
    "fsdp_config.fsdp_ignored_modules": NotModelled("all parameters are sharded"),
    "deepspeed_config.seq_parallel_communication_data_type": NotModelled(
        "exchanges of sequences are in the precision of the activations",
        ("bf16", "bfloat16", "fp16"),
    ),
    "deepspeed_config.offload_param_device": NotModelled("parameters stay on the device"),
    "parallelism_config.parallelism_config_cp_comm_strategy": NotModelled(
        "keys and values go round a ring", ("allgather",)
    ),
    "megatron_lm_config.megatron_lm_use_custom_fsdp": NotModelled("parameters are not sharded"),
    "megatron_lm_config.megatron_lm_use_precision_aware_optimizer": NotModelled(
        "optimizer state is fp32"
    ),
    "megatron_lm_config.megatron_lm_decoder_last_pipeline_num_layers": NotModelled(
        "layers are spread evenly"
    ),
}
NO_EFFECT |= by_reason(
    {
        "numbers, or kernels that are taken to be fused": """
megatron_lm_config.megatron_lm_attention_dropout megatron_lm_config.megatron_lm_hidden_dropout
megatron_lm_config.megatron_lm_attention_softmax_in_fp32
megatron_lm_config.megatron_lm_calculate_per_token_loss
megatron_lm_config.megatron_lm_eod_mask_loss
megatron_lm_config.megatron_lm_use_rotary_position_embeddings
megatron_lm_config.megatron_lm_overlap_cpu_optimizer_d2h_h2d
megatron_lm_config.megatron_lm_attention_backend""",
    }
)

OF_SAGEMAKER = "ec2_instance_type"
