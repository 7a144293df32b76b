OPTIONS="--num-layers 32 --hidden-size 4096 --num-attention-heads 32 --seq-length 4096 \
  --max-position-embeddings 4096 --vocab-size 128256 --micro-batch-size 1 \
  --global-batch-size 128 --bf16"
if [[ $BATCH -eq 0 ]]; then
  torchrun --nproc_per_node 8 train.py ${OPTIONS}
else
  srun sh -c "python -u train.py ${OPTIONS} --tensor-model-parallel-size 8"
fi
