torchrun --nproc_per_node=16 train.py --model_name_or_path meta-llama/Llama-2-7b-hf \
    --fp16 --per_device_train_batch_size 2 --gradient_accumulation_steps 16 \
    --fsdp "shard_grad_op auto_wrap" --fsdp_transformer_layer_cls_to_wrap 'LlamaDecoderLayer' \
    --model_max_length 2048 --lazy_preprocess True
