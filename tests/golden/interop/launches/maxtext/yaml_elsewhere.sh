python3 -m maxtext.trainers.pre_train.train configs/models/llama2_7b.yml run_name=test \
    dcn_data_parallelism=2 ici_fsdp_parallelism=8 profiler=xplane
