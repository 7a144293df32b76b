torchrun --nproc_per_node 8 --nnodes 2 pretrain_gpt.py --num-layers 24 --hidden-size 1024 \
  --num-attention-heads 16 --seq-length 2048 --max-position-emb 2048 --vocab-size 50304 \
  --tensor-model-parallel 2 --micro-batch-size 4 --global-batch-size 256 --bf16 \
  --recompute-granularity full --recompute-method chunk --recompute-num-layers 2 \
  --pp-partition-method 'type:transformer|embedding' --embed-layernorm
