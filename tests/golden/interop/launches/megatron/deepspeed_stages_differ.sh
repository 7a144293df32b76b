cat <<EOT > ds.json
{"zero_optimization": {"stage": 2}}
EOT
deepspeed --num_gpus 8 pretrain_gpt.py --num-layers 24 --hidden-size 1024 \
    --num-attention-heads 16 --seq-length 1024 --max-position-embeddings 1024 \
    --micro-batch-size 4 --global-batch-size 32 --fp16 --merge-file gpt2-merges.txt \
    --zero-stage 1 --deepspeed --deepspeed_config ds.json
