#!/bin/bash
#SBATCH --nodes=2
export LAUNCHER="accelerate launch --config_file parts/sharded.yaml --num_machines $SLURM_NNODES"
export CMD="train.py --model_name_or_path meta-llama/Llama-3.1-8B --max_length 4096 \
  --per_device_train_batch_size 2 --gradient_accumulation_steps 4 --gradient_checkpointing true"
srun bash -c '$LAUNCHER --machine_rank $SLURM_PROCID $CMD'
