"""Settings of trainers on Hugging Face Transformers that their importer does not read.

Names: TrainingArguments of Transformers 4.30 to 5.24, SFTConfig and ModelConfig of TRL 0.7 to 1.0,
hparams of LLaMA-Factory 0.5 to 0.9.4, schemas of Axolotl 0.4 to 0.13. `logging_*` is all that
begins so.
"""

from parplan.experiments.interop.keys.effects import NotModelled, by_reason

NO_EFFECT = by_reason(
    {
        "logging and what is published": """
logging_* log_* report_to run_name project disable_tqdm hub_* push_to_hub* wandb_* mlflow_*
hf_mlflow_* comet_* use_wandb use_comet use_mlflow use_tensorboard use_trackio trackio_* swanlab_*
use_swanlab use_otel_metrics otel_* plot_loss skip_memory_metrics profiler_* profile_modules
include_* strict debug enable_torch_profiler print_param_status loss_watchdog_* gradio_*
compute_accuracy ray_* use_ray use_ray_* generate_samples output_dir overwrite_output_dir
dataset_prepared_path""",
        "checkpoints": """
save_* saves_per_epoch resume_from_checkpoint auto_resume_from_checkpoints
load_best_model_at_end metric_for_best_model greater_is_better ignore_data_skip
enable_jit_checkpoint restore_callback_states_from_checkpoint early_stopping_*
trigger_file_path""",
        "validation": """
eval_* evaluation_strategy evals_per_epoch do_eval do_predict do_train val_set_size val_size
per_device_eval_batch_size prediction_loss_only batch_eval_metrics test_* bench_* do_bench_eval
do_causal_lm_eval predict_with_generate label_names bf16_full_eval fp16_full_eval use_cache
infer_* vllm_maxlen sglang_* vllm_gpu_util""",
        "learning rate": """
learning_rate eta_min num_warmup_steps lr_* warmup_* cosine_* loraplus_* embedding_lr* lr max_steps
num_train_epochs num_epochs""",
        "numbers of the optimizer and of the loss": """
adam_* weight_decay max_grad_norm label_smoothing_factor optim_args neftune_noise_alpha
noisy_embedding_alpha router_aux_loss_coef moe_aux_loss_coef pref_* dpo_label_smoothing seed
data_seed average_tokens_across_devices full_determinism ddp_* dpo_* rl_beta simpo_gamma
orpo_* kto_* use_asft_loss asft_* ebft
completion_only_loss assistant_only_loss train_on_* mask_history loss_type""",
        "the data set, which is taken to be read in time": """
dataset dataset_* datasets test_datasets eval_dataset media_dir template chat_template*
default_system* streaming buffer_size mix_strategy interleave_probs overwrite_cache preprocess*
max_samples tokenized_path data_shared_file_system dataloader_* remove_unused_columns
length_column_name shuffle_* disable_shuffling curriculum_sampling pretraining_dataset tool_format
enable_thinking preserve_thinking data_files tokenizer_* special_tokens tokens
added_tokens_overrides eot_tokens add_tokens add_special_tokens use_fast_tokenizer
resize_token_embeddings_to_32x resize_vocab eos_token pad_token split_special_tokens
group_by_length train_sampling_strategy eval_packing dataset_text_field truncation_mode
is_preprocess min_sample_len excess_length_strategy data_path train_file validation_file
image_* video_* audio_* use_audio_in_video processor_* field_messages text_column
input_format push_dataset_to_hub roles_to_train sample_packing_* multipack_real_batches
skip_prepare_dataset pad_to_sequence_len train_dataset custom_chat_template batching_workers
ignore_pad_token_for_loss preprocessing_num_workers""",
        "where the model comes from": """
trust_remote_code model_revision revision_of_model cache_dir model_type tokenizer_name
adapter_name_or_path adapter_folder hf_hub_token ms_hub_token om_hub_token low_cpu_mem_usage
is_*_derived_model base_model_config model_config.output_router_logits base_model_ignore_patterns
type_of_model hf_use_auth_token
hf_use_auth_token config_name use_auth_token token torch_dtype dtype model_init_kwargs
mean_resizing_embeddings lora_module_name data_split fix_untrained_tokens export_*""",
        "how processes find each other": """
dist_timeout init_config sample_backend max_new_tokens
local_rank ddp_timeout ddp_backend master_addr master_port world_size device device_map
accelerator_config distributed_type deepspeed_plugin env""",
        "which weights have adapters, and their numbers": """
lora_alpha lora_dropout lora_target lora_target_* target_modules lora_modules_to_save
lora_task_type use_rslora lora_bias lora_fan_in_fan_out peft_* loftq_config pissa_*
create_new_adapter lora_model_dir merge_lora additional_target lora_alpha_pattern
lora_rank_pattern lora_on_cpu""",
        "kernels are taken to be fused": """
use_liger_kernel enable_liger_kernel liger_* liger_kernel_config flash_attn_* use_kernels
torch_compile* tf32 fused_attn_kernel lora_mlp_kernel lora_qkv_kernel lora_o_kernel use_unsloth
lora_embedding_kernel rope_fusion flash_optimum plugins cut_cross_entropy chunked_cross_entropy*
unsloth_* use_v1_kernels flex_attn_compile_kwargs experts_implementation
experimental_skip_move_to_device""",
        "how recomputation is implemented": """
gradient_checkpointing_kwargs use_reentrant_gc use_unsloth_gc
activation_checkpointing_kwargs""",
        "numbers of an optimizer that is named elsewhere": """
apollo_* galore_* qgalore_* badam_* muon_* dion_* lisa_* eaft_alpha asft_alpha""",
        "caches that are emptied": "torch_empty_cache_steps gc_steps gc_collect_steps",
        "what comments say": "comment _comment",
        "units of a block": """
fsdp_transformer_layer_cls_to_wrap fsdp_config.transformer_layer_cls_to_wrap
fsdp_config.fsdp_transformer_layer_cls_to_wrap fsdp_config.min_num_params
fsdp_config.fsdp_min_num_params fsdp_min_num_params""",
        "gathers and checkpoints of FSDP": """
fsdp_config.*state_dict_type fsdp_config.*sync_module_states fsdp_config.*cpu_ram_efficient_loading
fsdp_config.*use_orig_params fsdp_config.*forward_prefetch fsdp_config.*limit_all_gathers
fsdp_config.*cpu_offload_pin_memory fsdp_config.xla* fsdp_config.*final_state_dict_type
fsdp_final_state_dict_type""",
    }
)

NOT_MODELLED = {
    "double_quantization": NotModelled("weights are not quantized"),
    "quantization_method": NotModelled("weights are not quantized"),
    "quantization_type": NotModelled("weights are not quantized"),
    "model_quantization_config": NotModelled("weights are not quantized"),
    "model_quantization_config_kwargs": NotModelled("weights are not quantized"),
    "kt_config": NotModelled("the accelerators of the cluster train"),
    "kt_cpu_activation": NotModelled("the accelerators of the cluster train"),
    "batching_strategy": NotModelled("sequences are full", ("normal",)),
    "model_class": NotModelled("a language model alone", ("llm",)),
    "mp_replicate_size": NotModelled("shards lie on all ranks", (1,)),
    "mp_shard_size": NotModelled("shards lie on all ranks"),
    "model_config": NotModelled("the model is the published one"),
    "load_in_8bit": NotModelled("weights are not quantized"),
    "load_in_4bit": NotModelled("weights are not quantized"),
    "quantization_bit": NotModelled("weights are not quantized"),
    "gptq": NotModelled("weights are not quantized"),
    "qat": NotModelled("weights are not quantized"),
    "quantization": NotModelled("weights are not quantized"),
    "fp8": NotModelled("products are in 16 bits"),
    "rl": NotModelled("one model is trained on whole sequences"),
    "use_galore": NotModelled("its state is that of adam"),
    "use_apollo": NotModelled("its state is that of adam"),
    "use_badam": NotModelled("all weights are trained"),
    "use_adam_mini": NotModelled("its state is that of adam"),
    "use_muon": NotModelled("its state is that of adam"),
    "use_llama_pro": NotModelled("all weights are trained"),
    "use_mca": NotModelled("Transformers trains"),
    "pure_bf16": NotModelled("masters and optimizer state are fp32"),
    "use_dora": NotModelled("adapters have no magnitudes"),
    "peft_use_dora": NotModelled("adapters have no magnitudes"),
    "shift_attn": NotModelled("every token attends to all before it"),
    "s2_attention": NotModelled("every token attends to all before it"),
    "sage_attention": NotModelled("attention is flash-2"),
    "relora": NotModelled("adapters are not merged"),
    "mixture_of_depths": NotModelled("every token meets all layers"),
    "unfrozen_parameters": NotModelled("all weights are trained"),
    "freeze_vision_tower": NotModelled("a language model alone", (True,)),
    "lisa_n_layers": NotModelled("all layers are trained"),
    "activation_offloading": NotModelled("activations stay on the device"),
    "layer_offloading": NotModelled("parameters stay on the device"),
    "tiled_mlp": NotModelled("an MLP works on whole sequences"),
    "auto_find_batch_size": NotModelled("the batch is the one that is given"),
    "use_cpu": NotModelled("the accelerators of the cluster train"),
    "mixture": NotModelled("one model"),
    "rope_scaling": NotModelled("positions are those of the model"),
    "overrides_of_model_config": NotModelled("the model is the published one"),
    "model_init_kwargs": NotModelled("the model is the published one"),
    "reinit_weights": NotModelled("all weights are trained"),
    "optim_target_modules": NotModelled("all weights have optimizer state"),
    "use_kt": NotModelled("the accelerators of the cluster train"),
    "fsdp_config.xla": NotModelled("the accelerators of the cluster train"),
    "fsdp_config.backward_prefetch": NotModelled(
        "parameters are gathered one block ahead", ("backward_pre",)
    ),
    "fsdp_config.fsdp_backward_prefetch": NotModelled(
        "parameters are gathered one block ahead", ("backward_pre",)
    ),
    "fsdp_config.mixed_precision_policy": NotModelled("precision is that of bf16 and fp16"),
}
