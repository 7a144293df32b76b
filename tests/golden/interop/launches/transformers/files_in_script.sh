NODES=2
config=configs/accelerate.$NODES.yaml
cat <<EOF > $config
compute_environment: LOCAL_MACHINE
distributed_type: FSDP
fsdp_config:
  fsdp_auto_wrap_policy: TRANSFORMER_BASED_WRAP
  fsdp_sharding_strategy: HYBRID_SHARD_ZERO2
mixed_precision: bf16
num_machines: $NODES
num_processes: $((NODES * 8))
EOF
accelerate launch --config_file $config train.py --model_name_or_path Qwen/Qwen3-8B \
  --max_length 4096 --per_device_train_batch_size 1 --gradient_checkpointing true
