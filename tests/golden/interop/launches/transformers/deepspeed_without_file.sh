OUTPUT=$1
STAGE=$2
if [ "$STAGE" == "" ]; then
  STAGE=2
fi
deepspeed --num_gpus 16 main.py --model_name_or_path facebook/opt-1.3b --max_seq_len 512 \
  --per_device_train_batch_size 8 --gradient_accumulation_steps 2 --gradient_checkpointing \
  --zero_stage $STAGE --deepspeed --lora_dim 64 --num_warmup_steps 0 --output_dir ${OUTPUT:-out}
