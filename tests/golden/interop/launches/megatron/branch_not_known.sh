case $MODEL in
  8B) LAYERS=32; HIDDEN=4096 ;;
  70B) LAYERS=80; HIDDEN=8192 ;;
esac
torchrun --nproc-per-node 8 --nnodes 2 pretrain_gpt.py --num-layers $LAYERS --hidden-size $HIDDEN \
  --num-attention-heads 32 --seq-length 4096 --max-position-embeddings 4096 --vocab-size 128256 \
  --micro-batch-size 1 --global-batch-size 128 --bf16
