#!/bin/bash
MODEL="Qwen/Qwen2.5-7B-Instruct"
while [[ "$1" != "" ]]; do
    case $1 in
        -m ) shift; MODEL=$1 ;;
        * ) exit 1 ;;
    esac
    shift
done
torchrun --nproc_per_node 8 --nnodes 2 finetune.py \
    --model_name_or_path $MODEL --bf16 True --per_device_train_batch_size 2 \
    --gradient_accumulation_steps 4 --model_max_length 2048 --gradient_checkpointing True \
    --learning_rate 1e-5 --logging_steps 1 --report_to none --deepspeed parts/ds.json
