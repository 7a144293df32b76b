deepspeed --num_nodes 2 --num_gpus 8 finetune_t0.py --num-layers 24 --hidden-size 2048 \
  --num-attention-heads 16 --seq-length 2048 --position-embedding-type alibi --vocab-size 250880 \
  --pad-vocab-size-to 250880 --micro-batch-size 2 --global-batch-size 256 --fp16 --zero-stage 1 \
  --norm-target-loss --checkpoint-activations
