ZERO=1
sed "s/ZERO/${ZERO}/" template.json > ds.json
deepspeed --num_gpus 8 pretrain_gpt.py --num-layers 24 --hidden-size 1024 \
    --num-attention-heads 16 --seq-length 1024 --max-position-embeddings 1024 \
    --micro-batch-size 4 --global-batch-size 32 --fp16 --merge-file gpt2-merges.txt \
    --zero-stage $ZERO --deepspeed --deepspeed_config ds.json
