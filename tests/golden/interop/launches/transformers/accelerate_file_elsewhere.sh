accelerate launch --config_file $HOME/configs/machines.yaml train.py \
  --model_name_or_path Qwen/Qwen2.5-7B --max_seq_length 2048 --per_device_train_batch_size 1 --bf16
