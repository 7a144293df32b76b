torchrun --nproc_per_node 8 --nnodes 2 pretrain_mamba.py --num-layers 56 --hidden-size 4096 \
  --num-attention-heads 32 --group-query-attention --num-query-groups 8 --seq-length 4096 \
  --max-position-embeddings 4096 --vocab-size 256000 --hybrid-attention-ratio 0.08 \
  --hybrid-mlp-ratio 0.5 --micro-batch-size 4 --global-batch-size 128 --bf16
