torchrun --nproc_per_node 8 --nnodes 2 pretrain_gpt.py --num-layers 16 --hidden-size 2048 \
  --num-attention-heads 16 --seq-length 2048 --position-embedding-type rope --vocab-size 32000 \
  --micro-batch-size 1 --global-batch-size 64 --bf16 --use-distributed-optimizer --use-custom-fsdp
