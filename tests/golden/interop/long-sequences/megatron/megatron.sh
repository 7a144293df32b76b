#!/bin/bash
# llama3-8b, 8 x 32768 tokens, on 8xh100 (8 devices): PP 1 x TP 2 x DP 2 x CP 2, 4 micro-batches of 1
# Data, learning rate and checkpoints are yours: give them as further arguments.
set -euo pipefail
ARGS=(
  --tensor-model-parallel-size 2
  --pipeline-model-parallel-size 1
  --context-parallel-size 2
  --sequence-parallel
  --micro-batch-size 1
  --global-batch-size 8
  --use-distributed-optimizer
  --use-megatron-fsdp
  --data-parallel-sharding-strategy optim_grads
  --ckpt-format fsdp_dtensor
  --grad-reduce-in-bf16
  --overlap-grad-reduce
  --tp-comm-overlap
  --optimizer-cpu-offload
  --optimizer-offload-fraction 1.0
  --use-precision-aware-optimizer
  --no-gradient-accumulation-fusion
  --num-layers 32
  --hidden-size 4096
  --ffn-hidden-size 14336
  --num-attention-heads 32
  --group-query-attention
  --num-query-groups 8
  --seq-length 32768
  --max-position-embeddings 32768
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
  --fp8-format hybrid
  --optimizer adam
  --attention-dropout 0.0
  --hidden-dropout 0.0
  --attention-backend flash
)
torchrun ${TORCHRUN_ARGS:---nnodes 1 --nproc-per-node 8} \
  pretrain_gpt.py "${ARGS[@]}" "$@"
