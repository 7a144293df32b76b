NPROC_PER_NODE=8 swift sft --model Qwen/Qwen3-8B --train_type full --max_length 4096 \
  --per_device_train_batch_size 1 --gradient_accumulation_steps 2 --deepspeed zero3
