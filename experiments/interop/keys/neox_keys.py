"""Settings of a gpt-neox YAML that its importer does not read, by what they bear on.

Names: megatron/neox_arguments of gpt-neox 2.0 to May 2026; those of DeepSpeed are in
`deepspeed_keys`.
"""

from parplan.experiments.interop.keys import deepspeed_keys
from parplan.experiments.interop.keys.effects import NotModelled, by_reason

NO_EFFECT = dict(deepspeed_keys.NO_EFFECT) | by_reason(
    {
        "logging and profiling": """
log_* tensorboard_dir use_wandb wandb_* use_comet comet_* profile profile_* memory_profiling*
git_hash peak_theoretical_tflops gradient_noise_scale_* report_* char_level_ppl""",
        "checkpoints": """
save load checkpoint_factor checkpoint_scale extra_save_iters keep_last_n_checkpoints
checkpoint_validation_with_forward_pass no_save_* no_load_* finetune s3_* save_iters config_files
save_interval iteration""",
        "validation and generation": """
eval_* do_train do_valid do_test exit_interval text_gen_type temperature top_p top_k
return_logits maximum_tokens prompt_end sample_* num_samples recompute precompute_model_name
serve_model_weights weight_server_port online_*""",
        "numbers of the optimizer and of the loss": """
weight_decay clip_grad gradient_clipping loss_scale* hysteresis dynamic_loss_scale min_scale
fp16.fp16 fp16.type bf16.type fp16_lm_cross_entropy z_loss label_smoothing* optimizer_type
min_loss_scale fp16.fp16_params fp32_* kl_* dpo_* kto_* optimizer.params""",
        "learning rate": """
lr lr_* decay_lr_to min_lr warmup override_lr_scheduler use_checkpoint_lr_scheduler""",
        "how long it trains": "train_iters train_epochs",
        "the data set, which is taken to be read in time": """
data_path data_impl split train_data_* valid_data_* test_data_* train_label_* valid_label_*
test_label_* pos_* neg_* vocab_file merge_file num_workers mmap_warmup dataset_impl pack_impl
train_impl weight_by_num_documents weighted_sampler_alpha use_shared_fs short_seq_prob
eod_mask_loss reset_attention_mask allow_chopped hf_*""",
        "initial values": """
init_method output_layer_init_method init_method_std seed use_cpu_initialization use_mup
coord_check save_base_shapes base_shapes_file mup_*""",
        "how processes find each other": """
distributed_backend local_rank rank lazy_mpu_init deepspeed deepspeed_mpi deepspeed_slurm
deepscale* user_script hostfile include exclude num_nodes num_gpus master_port master_addr launcher
force_multi no_ssh_check comment account world_size global_num_gpus detect_nvlink_pairs
adlr_autoresume* onnx_safe autotuning_run is_pipe_parallel""",
        "numbers of the model": """
rotary_pct rotary_emb_base rotary_save_freqs_buffer layernorm_epsilon rms_norm_epsilon
scalenorm_epsilon rpe_* opt_pos_emb_offset apply_query_key_layer_scaling
attention_softmax_in_fp32 mlp_type moe_jitter_eps moe_lbl_in_fp32 moe_router_type moe_loss_coeff
moe_aux_loss_coeff moe_z_loss_coeff moe_glu output_layer_parallelism gmlp_attn_dim""",
        "kernels are taken to be fused": """
bias_gelu_fusion bias_dropout_fusion scaled_masked_softmax_fusion use_flashattn_swiglu
layernorm_fusion rmsnorm_fusion fused_kernels_build_path te_columnparallel te_rowparallel
te_layernorm_mlp te_mha te_fp8_*""",
        "how recomputation is implemented": """
deepspeed_activation_checkpointing synchronize_each_layer contiguous_checkpointing
profile_backward""",
    }
)

NOT_MODELLED = dict(deepspeed_keys.NOT_MODELLED) | {
    "checkpoint_in_cpu": NotModelled("what is kept of a block stays on the device"),
    "pipe_partition_method": NotModelled(
        "stages have equally many layers", ("type:transformer|mlp", "uniform")
    ),
    "param_sharing_style": NotModelled("every layer has its own parameters", ("grouped",)),
    "num_unique_layers": NotModelled("every layer has its own parameters"),
    "gpt_j_tied": NotModelled("attention and MLP have a norm each"),
    "soft_prompt_tuning": NotModelled("all weights are trained"),
    "sparsity_config": NotModelled("every token attends to all before it"),
    "use_bnb_optimizer": NotModelled("optimizer state is fp32"),
    "te_fp8_mha": NotModelled("products are in 16 bits"),
    "curriculum_seqlen": NotModelled("every step has whole sequences"),
}
