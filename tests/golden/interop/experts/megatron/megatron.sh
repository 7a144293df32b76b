#!/bin/bash
# deepseek-v2-lite, 32 x 4096 tokens, on 8xh100 (8 devices): PP 2 x TP 1 x DP 4, 8 micro-batches of 1
# Data, learning rate and checkpoints are yours: give them as further arguments.
set -euo pipefail
ARGS=(
  --tensor-model-parallel-size 1
  --pipeline-model-parallel-size 2
  --context-parallel-size 1
  --expert-model-parallel-size 4
  --micro-batch-size 1
  --global-batch-size 32
  --pipeline-model-parallel-layout 'Et*14|t*13L'
  --use-distributed-optimizer
  --grad-reduce-in-bf16
  --overlap-grad-reduce
  --num-layers 27
  --hidden-size 2048
  --ffn-hidden-size 10944
  --num-attention-heads 16
  --seq-length 4096
  --max-position-embeddings 4096
  --position-embedding-type rope
  --rotary-base 10000
  --norm-epsilon 1e-06
  --vocab-size 102400
  --tokenizer-type NullTokenizer
  --normalization RMSNorm
  --swiglu
  --disable-bias-linear
  --untie-embeddings-and-output-weights
  --num-experts 64
  --moe-router-topk 6
  --moe-ffn-hidden-size 1408
  --moe-grouped-gemm
  --moe-token-dispatcher-type alltoall
  --moe-shared-expert-intermediate-size 2816
  --moe-layer-freq '[0,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1]'
  --multi-latent-attention
  --kv-lora-rank 512
  --qk-head-dim 128
  --qk-pos-emb-head-dim 64
  --v-head-dim 128
  --bf16
  --optimizer adam
  --attention-dropout 0.0
  --hidden-dropout 0.0
  --attention-backend flash
)
torchrun ${TORCHRUN_ARGS:---nnodes 1 --nproc-per-node 8} \
  pretrain_gpt.py "${ARGS[@]}" "$@"
