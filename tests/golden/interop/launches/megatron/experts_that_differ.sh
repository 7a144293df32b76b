EXPERTS="8 8 8 8 16 16"
deepspeed pretrain_gpt.py --num-layers 12 --hidden-size 1024 --num-attention-heads 16 \
  --seq-length 2048 --max-position-embeddings 2048 --vocab-size 50257 --num-experts ${EXPERTS} \
  --moe-expert-parallel-size 8 --micro-batch-size 4 --global-batch-size 256 --fp16
