#!/bin/bash
#SBATCH --nodes=4
#SBATCH --gpus-per-node=8
TP=4   # a comment that ends in a backslash swallows nothing \
PP=2
: ${MBS:=2}
ARGS=(--num-layers 24 --hidden-size 2048 --num-attention-heads 16 --seq-length 2048)
ARGS+=("--max-position-embeddings 2048 --bf16")
ARGS+=(--vocab-size 50257 --global-batch-size $((MBS * 32)))
srun python pretrain_gpt.py ${ARGS[@]} \
    --tensor-model-parallel-size $TP --pipeline-model-parallel-size ${PP:-1} \
    --micro-batch-size $MBS --use-distributed-optimizer --swiglu
