#!/bin/bash
# gpt3-175b, 128 x 2048 tokens, on 128xa100 (128 devices): PP 4 x TP 8 x DP 4, 32 micro-batches of 1
# Data, learning rate and checkpoints are yours: give them as further arguments.
set -euo pipefail
export CUDA_DEVICE_MAX_CONNECTIONS=1
ARGS=(
  --tensor-model-parallel-size 8
  --pipeline-model-parallel-size 4
  --context-parallel-size 1
  --sequence-parallel
  --micro-batch-size 1
  --global-batch-size 128
  --num-virtual-stages-per-pipeline-rank 2
  --recompute-granularity selective
  --recompute-modules core_attn
  --use-distributed-optimizer
  --accumulate-allreduce-grads-in-fp32
  --overlap-grad-reduce
  --overlap-param-gather
  --num-layers 96
  --hidden-size 12288
  --ffn-hidden-size 49152
  --num-attention-heads 96
  --seq-length 2048
  --max-position-embeddings 2048
  --position-embedding-type learned_absolute
  --vocab-size 50257
  --tokenizer-type NullTokenizer
  --normalization LayerNorm
  --bf16
  --optimizer adam
  --attention-dropout 0.0
  --hidden-dropout 0.0
  --attention-backend flash
)
torchrun ${TORCHRUN_ARGS:---nnodes 16 --nproc-per-node 8} \
  pretrain_gpt.py "${ARGS[@]}" "$@"
