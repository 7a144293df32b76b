DATA=$1
TOKENIZER=$2
torchrun --nproc-per-node 8 $HOME/pretrain_gpt.py --num-layers 24 --hidden-size 2048 \
    --num-attention-heads 16 --seq-length 2048 --max-position-embeddings 2048 --bf16 \
    --micro-batch-size 4 --global-batch-size 64 --position-embedding-type alibi \
    --vocab-size 50000 --tokenizer-model $TOKENIZER --data-path $DATA --load $SAVED/last \
    --optimizer dist_muon --empty-unused-memory-level 2
