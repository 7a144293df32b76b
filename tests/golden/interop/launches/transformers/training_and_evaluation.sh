torchrun --nproc_per_node 8 --nnodes 2 sft.py --model_name_or_path Qwen/Qwen2.5-7B \
  --per_device_train_batch_size 4 --model_max_length 2048 --bf16 True --fsdp "full_shard auto_wrap"
python evaluate.py --model-name out/sft --question-file data/questions.json --num-chunks 2 \
  --image-folder data/images --answers-file out/answers.json --conv-mode plain --temperature 0
