ARGS="--num-layers 24 --hidden-size 2048 --num-attention-heads 16 --seq-length 2048 \
  --max-position-embeddings 2048 --vocab-size 50304 --micro-batch-size 2
  --global-batch-size 256 --bf16 --use-distributed-optimizer"
srun --nodes 2 --ntasks-per-node 8 bash -c "python pretrain_gpt.py $ARGS"
