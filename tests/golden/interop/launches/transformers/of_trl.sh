trl sft --model_name_or_path Qwen/Qwen2.5-7B --dataset_name trl-lib/Capybara --max_length 2048 \
  --per_device_train_batch_size 2 --gradient_accumulation_steps 4 --num_processes 16 --accelerate_config zero3
