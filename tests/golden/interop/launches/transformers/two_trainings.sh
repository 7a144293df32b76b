torchrun --nproc_per_node 8 --nnodes 2 sft.py --model_name_or_path Qwen/Qwen2.5-7B \
  --per_device_train_batch_size 4 --gradient_accumulation_steps 8 --model_max_length 2048 \
  --bf16 True --fsdp "full_shard auto_wrap" --learning_rate 2e-5
torchrun --nproc_per_node 8 --nnodes 2 dpo.py --model_name_or_path out/sft --bf16 True \
  --per_device_train_batch_size 1 --max_length 2048
python evaluate.py --model out/dpo
