deepspeed --num_nodes 2 --num_gpus 8 pretrain_gpt.py --num-layers 32 --hidden-size 4096 \
  --num-attention-heads 32 --seq-length 2048 --position-embedding-type alibi \
  --pad-vocab-size-to 250880 --embed-layernorm --pipeline-model-parallel-size 4 \
  --tensor-model-parallel-size 2 --micro-batch-size 1 --global-batch-size 64 --bf16 \
  --deepspeed --zero-stage 0 --deepspeed-activation-checkpointing
