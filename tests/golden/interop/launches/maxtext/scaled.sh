set -e
export EXECUTABLE="train"
for ARGUMENT in "$@"; do
    IFS='=' read -r KEY VALUE <<< "$ARGUMENT"
    export "$KEY"="$VALUE"
done
bash preflight.sh PLATFORM=$PLATFORM
export LIBTPU_INIT_ARGS="--xla_enable_async_all_gather=true"
python3 -m maxtext.trainers.pre_train.$EXECUTABLE "${CONFIGS:-$PWD/configs}"/base.yml\
    steps=15 per_device_batch_size=2 enable_checkpointing=false run_name=$RUN_NAME\
    remat_policy=minimal global_parameter_scale=32\
    ici_fsdp_parallelism=-1 ici_tensor_parallelism=4 dcn_data_parallelism=2\
    max_target_length=4096 base_output_directory=$OUTPUT_PATH\
    attention='flash' quantization="int8" gradient_accumulation_steps=2\
