torchrun --nproc_per_node 8 --nnodes 2 $HOME/Megatron-LM/pretrain_t5.py --num-layers 12 \
  --hidden-size 768 --num-attention-heads 12 --kv-channels 64 --ffn-hidden-size 3072 \
  --encoder-seq-length 512 --decoder-seq-length 128 --micro-batch-size 16 \
  --global-batch-size 256 --max-position-embeddings 512 --vocab-size 30522 --fp16
