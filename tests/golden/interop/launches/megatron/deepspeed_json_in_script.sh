#!/bin/bash
#SBATCH --nodes=4
#SBATCH --gpus-per-node=8
CONFIG=./ds_$SLURM_JOB_ID.json
cat <<EOT > $CONFIG
{
  "train_micro_batch_size_per_gpu": 2,
  "zero_optimization": {"stage": 3, "offload_optimizer": {"device": "cpu"}},
  "curriculum_learning": {"enabled": true, "min_difficulty": 64},
  "bf16": {"enabled": true}
}
EOT
deepspeed `pwd`/pretrain_gpt.py \
    --ds-sequence-parallel-size 4 --num-layers 32 --hidden-size 4096 --ffn-hidden-size 14336 \
    --num-attention-heads 32 --num-key-value-heads 8 --seq-length 16384 \
    --max-position-embeddings 16384 --use-rotary-position-embeddings --swiglu \
    --normalization rmsnorm --disable-bias-linear --untie-embeddings-and-output-weights \
    --rotary-position-embeddings-theta 500000 --attention-dropout 0 --hidden-dropout 0 \
    --micro-batch-size 2 --global-batch-size 64 --bf16 --lr-decay-tokens 1000 \
    --vocab-size 128256 --save $SCRATCH/saved --data-path $DATA --split 98,2,0 \
    --deepspeed --deepspeed-config $CONFIG --deepspeed-activation-checkpointing \
    --zero-reduce-bucket-size 500000000 --log-optimizer-states-to-tensorboard
