llamafactory-cli train --model_name_or_path Qwen/Qwen3-8B --stage sft --do_train \
  --finetuning_type full --cutoff_len 2048 --per_device_train_batch_size 1 --bf16
