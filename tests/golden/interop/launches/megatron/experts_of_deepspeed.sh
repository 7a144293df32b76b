EXPERTS=16
deepspeed --num_nodes 2 --num_gpus 8 pretrain_gpt.py \
  --num-layers 12 --hidden-size 1024 --num-attention-heads 16 --seq-length 2048 \
  --max-position-embeddings 2048 --vocab-size 50257 --num-experts $EXPERTS --mlp-type residual \
  --moe-expert-parallel-size 8 --create-moe-param-group --moe-train-capacity-factor 1.0 \
  --micro-batch-size 4 --global-batch-size 256 --fp16 --checkpoint-activations --zero-stage 1
