#!/bin/bash
# llama3-8b, 64 x 8192 tokens, on 16xh100 (16 devices): PP 1 x TP 1 x DP 16, 2 micro-batches of 2
# Data, learning rate and checkpoints are yours: give them as further arguments.
set -euo pipefail
ARGS=(
  --tensor-model-parallel-size 1
  --pipeline-model-parallel-size 1
  --context-parallel-size 1
  --micro-batch-size 2
  --global-batch-size 64
  --recompute-granularity full
  --recompute-method uniform
  --recompute-num-layers 1
  --use-distributed-optimizer
  --use-megatron-fsdp
  --data-parallel-sharding-strategy optim_grads_params
  --ckpt-format fsdp_dtensor
  --num-distributed-optimizer-instances 2
  --accumulate-allreduce-grads-in-fp32
  --overlap-grad-reduce
  --no-gradient-accumulation-fusion
  --num-layers 32
  --hidden-size 4096
  --ffn-hidden-size 14336
  --num-attention-heads 32
  --group-query-attention
  --num-query-groups 8
  --seq-length 8192
  --max-position-embeddings 8192
  --position-embedding-type rope
  --rotary-base 500000
  --norm-epsilon 1e-05
  --vocab-size 128256
  --tokenizer-type NullTokenizer
  --normalization RMSNorm
  --swiglu
  --disable-bias-linear
  --untie-embeddings-and-output-weights
  --bf16
  --optimizer adam
  --attention-dropout 0.0
  --hidden-dropout 0.0
  --attention-backend flash
)
torchrun ${TORCHRUN_ARGS:---nnodes 2 --nproc-per-node 8} \
  pretrain_gpt.py "${ARGS[@]}" "$@"
