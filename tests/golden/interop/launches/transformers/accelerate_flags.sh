accelerate launch --use_deepspeed --zero_stage 3 --offload_optimizer_device cpu \
  --num_processes 16 --mixed_precision bf16 train.py --model_name_or_path Qwen/Qwen2.5-7B \
  --max_seq_length 2048 --per_device_train_batch_size 1 --gradient_checkpointing
