"""Argument names of Megatron-LM since 2.6 (2021) and of Megatron-DeepSpeed, by what they bear on.

Names: megatron/training/arguments.py of 13 releases up to core 0.19 and August 2026.
"""

_NO_EFFECT = {
    "logging": """
--app-tag-run-name --app-tag-run-version --config-logger-dir --disable-straggler-on-startup
--enable-one-logger --log-batch-size-to-tensorboard --log-energy --log-memory-to-tensorboard
--log-optimizer-states-to-tensorboard
--log-num-zeros-in-grad --log-params-norm --log-progress --log-straggler --log-throughput
--log-timers-to-tensorboard --log-validation-ppl-to-tensorboard
--log-world-size-to-tensorboard --logging-level --no-barrier-with-level-1-timing
--no-log-learnig-rate-to-tensorboard --no-log-loss-scale-to-tensorboard --no-one-logger
--one-logger-async --one-logger-entity --one-logger-project --one-logger-run-name
--otel-enabled --otel-service-name --otel-span-groups --run-workload-inspector-server
--straggler-ctrlr-port --straggler-minmax-count --tensorboard-log-interval
--tensorboard-queue-size --timing-log-level --timing-log-option --wandb-entity
--wandb-exp-name --wandb-project --wandb-save-dir
""",
    "numbers of the optimizer": """
--adam-beta1 --adam-beta2 --adam-eps --apply-wd-to-qk-layernorm --clip-grad --end-weight-decay
--lion-beta1 --lion-beta2 --muon-coefficient-type --muon-extra-scale-factor
--muon-fp32-matmul-prec --muon-momentum --muon-nesterov --muon-no-split-qkv
--muon-num-ns-steps --muon-scalar-optimizer --muon-scale-mode --muon-use-nesterov
--muon-use-syrk --no-weight-decay-cond-type --sgd-momentum --start-weight-decay --weight-decay
--weight-decay-incr-style
""",
    "initial values": """
--data-parallel-random-init --embedding-init-method-std --init-method-std
--init-method-xavier-uniform --seed
""",
    "learning rate": """
--decoupled-lr --decoupled-min-lr --lr --lr-decay-iters --lr-decay-samples --lr-decay-style
--lr-warmup-fraction --lr-warmup-init --lr-warmup-iters --lr-warmup-samples
--lr-decay-tokens --lr-warmup-tokens --no-load-lr-state
--lr-wsd-decay-iters --lr-wsd-decay-samples --lr-wsd-decay-style --min-lr
--override-lr-scheduler --override-opt-param-scheduler --use-checkpoint-lr-scheduler
--use-checkpoint-opt-param-scheduler --warmup
""",
    "checkpoints": """
--async-save --auto-detect-ckpt-format --ckpt-assume-constant-structure --ckpt-convert-format
--ckpt-convert-save --ckpt-convert-update-legacy-dist-opt-format
--ckpt-drop-redundant-extra-state --ckpt-format --ckpt-fully-parallel-load
--ckpt-fully-parallel-save --ckpt-step --disable-msc --dist-ckpt-format
--dist-ckpt-optim-fully-reshardable --dist-ckpt-save-pre-mcore-014 --dist-ckpt-strictness
--dist-ckpt-workers --distrib-optim-fully-reshardable-mem-efficient --enable-msc
--exit-on-missing-checkpoint --finetune --universal-checkpoint --load-tag --kill-switch-file
--kill-switch-path --trigger-path
--reset-iteration --load --load-main-params-from-ckpt
--no-ckpt-fully-parallel-save --no-initialization --no-load-optim --no-load-rng
--no-save-optim --no-save-rng --no-strict-fsdp-dtensor-load
--no-use-tokenizer-model-from-checkpoint-args --non-persistent-ckpt-type
--non-persistent-global-ckpt-dir --non-persistent-local-ckpt-algo
--non-persistent-local-ckpt-dir --non-persistent-save-interval --override-ckpt-iteration
--persistent-save-interval --pretrained-checkpoint --save --save-interval
--save-retain-interval --use-dist-ckpt --use-persistent-ckpt-worker
""",
    "validation": """
--eval-interval --eval-iters --full-validation --multiple-validation-sets --test-mode
""",
    "the data set, which is taken to be read in time": """
--data-cache-path --data-impl --data-path --dataloader-defer-npy-index-mmap
--dataloader-fast-cache-load --eod-mask-loss --fim-eod-token --fim-fragment-rate
--fim-middle-token --fim-no-prefix --fim-pad-token --fim-prefix-token --fim-rate
--fim-split-sample --fim-spm-rate --fim-suffix-token --mask-prob --mid-level-dataset-surplus
--mmap-warmup --mock-data --no-create-attention-mask-in-dataloader --no-mmap-bin-files
--num-dataset-builder-threads --num-workers --object-storage-cache-path
--renormalize-blend-weights --reset-position-ids --s3-cache-path --sample-rate
--short-seq-prob --split --test-data-path --tiktoken-num-special-tokens --tiktoken-pattern
--tiktoken-special-tokens --tokenizer-model --train-data-path --valid-data-path --vocab-file
--train-weighted-split-paths --train-weighted-split-paths-path --valid-weighted-split-paths
--valid-weighted-split-paths-path --test-weighted-split-paths --test-weighted-split-paths-path
--loss-on-targets-only --norm-target-loss --reset-progress
--repeated-dataloader --train-data-exact-num-epochs --train-desc-path --train-doc-idx-path
--train-idx-path --train-sample-idx-path --train-shuffle-idx-path --return-data-index
""",
    "restarts": """
--adlr-autoresume --adlr-autoresume-interval --calc-ft-timeouts --enable-ft-package
--error-injection-rate --error-injection-type --ft-num-warmup-iters
--inprocess-active-world-size --inprocess-barrier-timeout --inprocess-completion-timeout
--inprocess-empty-cuda-cache --inprocess-granularity --inprocess-hard-timeout
--inprocess-heartbeat-interval --inprocess-heartbeat-timeout --inprocess-last-call-wait
--inprocess-max-iterations --inprocess-monitor-process-interval
--inprocess-monitor-thread-interval --inprocess-progress-watchdog-interval --inprocess-restart
--inprocess-soft-timeout --inprocess-termination-grace-time --rerun-mode
""",
    "the tokenizer": """
--tokenizer-name-or-path --patch-tokenizer-type
--legacy-tokenizer --tokenizer-hf-include-special-tokens
--tokenizer-hf-no-include-special-tokens --tokenizer-hf-no-use-fast --tokenizer-hf-use-fast
--tokenizer-metadata --tokenizer-sentencepiece-legacy --tokenizer-special-tokens
--trust-remote-code
""",
    "length of training or logging": """
--check-for-large-grads --check-for-spiky-loss --check-weight-hash-across-dp-replicas-interval
--dataloader-type --deepscale --deepscale-config --epochs --exit-duration-in-mins
--exit-interval --exit-signal-handler --inference --iterations-to-skip --log-interval
--manual-gc --manual-gc-interval --memory-snapshot-path --no-check-for-nan-in-loss-and-grad
--no-manual-gc-eval --no-pipeline-parallel --profile --profile-ranks --profile-step-end
--profile-step-start --record-memory-history --result-rejected-tracker-filename
--tensorboard-dir --timing-log-level --train-iters --train-samples --train-tokens
--use-pytorch-profiler --wandb-exp-name --wandb-project
""",
    "positions, scales and limits of values alone": """
--activation-func-clamp-value --apply-layernorm-1p --apply-query-key-layer-scaling
--apply-residual-connection-post-layernorm --attention-softmax-in-fp32 --glu-linear-offset
--layernorm-epsilon --mscale --mscale-all-dim --no-query-key-layer-scaling --no-rope-freq
--norm-epsilon --onnx-safe --openai-gelu --rope-scaling-factor --rotary-base
--rotary-position-embeddings-theta
--rotary-interleaved --rotary-percent --rotary-scaling-factor
--rotary-seq-len-interpolation-factor --use-rope-scaling --yarn-beta-fast --yarn-beta-slow
""",
    "scales of the loss": """
--calculate-per-token-loss --fp16-lm-cross-entropy --hysteresis --initial-loss-scale
--loss-scale --loss-scale-window --min-loss-scale --mtp-loss-scaling-factor
""",
    "how processes find each other": """
--DDP-impl --ddp-average-in-collective --disable-gloo-process-groups --distributed-backend
--distributed-timeout-minutes --distributed-timeout-seconds-after-init
--init-model-with-meta-device --lazy-mpu-init --local-rank --master-addr --master-port
--no-initialization --node-rank --rdzv-backend --rdzv-endpoint --rdzv-id
--use-cpu-initialization --use-legacy-models --use-mcore-models --use-ring-exchange-p2p
--use-tp-pp-dp-mapping
""",
    "routing alone; --expert-load says how even it is": """
--create-moe-param-group --moe-aux-loss-coeff --moe-eval-capacity-factor
--moe-input-jitter-eps --moe-loss-coeff --moe-min-capacity --moe-per-layer-logging
--moe-router-bias-update-rate --moe-router-dtype --moe-router-enable-expert-bias
--moe-router-group-topk --moe-router-load-balancing-type --moe-router-num-groups
--moe-router-pre-softmax --moe-router-score-function --moe-router-topk-scaling-factor
--moe-token-drop-policy --moe-train-capacity-factor --moe-z-loss-coeff
""",
    "how the engine splits its exchanges and its recomputation": """
--zero-allgather-bucket-size --zero-reduce-bucket-size --zero-contigious-gradients
--zero-reduce-scatter --contigious-checkpointing --synchronize-each-layer --profile-backward
--profile-steps --reduce-bucket-size --checkpoint-num-layers --scattered-embeddings
--use-pin-memory --split-transformers
""",
    "another activation, of like time": "--squared-relu --use-fused-weighted-squared-relu",
    "scales of values by the width": "--mup --mup-input-mult --mup-output-mult --mup-attn-mult",
    "the batch that it ends at is predicted": "--rampup-batch-size",
    "steps before graphs are captured": "--cuda-graph-warmup-steps",
    "caches that are emptied": "--empty-unused-memory-level",
    "scales of fp8": """
--fp8-amax-compute-algo --fp8-amax-history-len --fp8-interval --fp8-margin --fp8-recipe
--inference-rng-tracker --te-rng-tracker
""",
    "the model of kernels has it already": """
--cross-entropy-fusion-impl --cross-entropy-loss-fusion --moe-grouped-gemm
--moe-permute-fusion --moe-router-fusion --moe-token-dispatcher-type
--no-async-tensor-model-parallel-allreduce --no-bias-dropout-fusion --no-bias-gelu-fusion
--no-bias-swiglu-fusion --no-contiguous-buffers-in-local-ddp --no-masked-softmax-fusion
--no-overlap-p2p-communication --no-persist-layer-norm --no-rope-fusion
--no-scatter-gather-tensors-in-pipeline --overlap-p2p-communication --use-flash-attn
--use-flash-attn-v2 --use-fused-rmsnorm
--ds-fused-adam --use-flash-attn-builder --use-flash-attn-triton --use-tutel
--disable-mem-efficient-ln --abort-on-unmet-fused-kernel-constraints
""",
    "not a setting of training": """
--actual-seq-length --deepspeed-mpi --memory-centric-tiled-linear --aml-data-download-path
--causal-lm --job-name --log-level --log-level-replica --codecarbon-dir
--ds-inference --dino-bottleneck-size --dino-freeze-last-layer --dino-head-hidden-size
--dino-local-crops-number --dino-local-img-size --dino-norm-last-layer --dino-teacher-temp
--dino-warmup-teacher-temp --dino-warmup-teacher-temp-epochs
""",
}

NO_EFFECT = {name: reason for reason, names in _NO_EFFECT.items() for name in names.split()}
"""Arguments without effect on the time or the memory of a step, and why."""

_OTHERS = """
--RMSNorm --activations-checkpoint-granularity --cpu-offloading-num-layers --cpu-optimizer
--deepspeed --deepspeed-activation-checkpointing --deepspeed-config --ds-sequence-parallel-size
--embed-layernorm --enable-zbh1-pipeline --enable-zero-bubble
--fine-grained-activation-offloading --fp8-e4m3 --fp8-hybrid --gas --geglu --glu-activation
--moe-expert-parallel-size --moe-flex-dispatcher-backend --num-key-value-heads --offload-modules
--overlapped-distributed-optimizer --pad-vocab-size-to --pipe-parallel-size
--pp-partition-method --topk --zero-bubble-v-schedule --zero-stage
--checkpoint-in-cpu --cpu-torch-adam --data-efficiency-curriculum-learning
--ds-sequence-parallel-fpdt --ds-sequence-parallel-fpdt-chunk-size
--ds-sequence-parallel-fpdt-offloading --enable-zbh1-exact-semantics --expert-interval
--force-ds-sequence-parallel --hidden-size-teacher --kd --kd-alpha-ce --kd-beta-ce --kd-temp
--load-teacher --mlp-type --mos --num-attention-heads-teacher --num-experts-switch
--num-experts-teacher --num-layers-teacher --partition-activations --random-ltd
--remote-device --retro-add-retriever --tile-factor --use-dataset-only
--embedding-weights-in-fp32 --disable-moe-token-dropping --disable-moe-top2-2nd-expert-sampling
--account-for-embedding-in-pipeline-split --account-for-loss-in-pipeline-split
--accumulate-allreduce-grads-in-fp32 --activations-checkpoint-method
--activations-checkpoint-num-layers --add-qkv-bias --allow-ambiguous-pad-tokens
--attention-backend --attention-dropout --batch-size --bert-embedder-type --bert-load
--bert-no-binary-head --bf16 --biencoder-projection-dim --biencoder-shared-query-context-model
--block-data-path --cache-mla-latents --checkpoint-activations --classes-fraction
--context-parallel-size --cp-comm-type --create-all-gather-group --cuda-graph-impl
--cuda-graph-modules --cuda-graph-scope --cuda-graph-warmup-steps --data-args-path
--data-parallel-sharding-strategy --data-per-class-fraction
--dataloader-inter-document-masking --ddp-bucket-size --ddp-num-buckets
--ddp-pad-buckets-for-high-nccl-busbw --ddp-param-name-patterns-for-fp32-local-accumulation
--ddp-reduce-scatter-with-fp32-accumulation --decode-only-cuda-graphs
--decoder-first-pipeline-num-layers --decoder-last-pipeline-num-layers --decoder-num-layers
--decoder-seq-length --decrease-batch-size-if-needed --defer-embedding-wgrad-compute
--delay-param-gather --delay-wgrad-compute --deterministic-mode
--disable-bf16-reduced-precision-matmul --disable-bias-linear --disable-chunked-prefill
--disable-mamba-mem-eff-path --disable-symmetric-registration --disable-tp-comm-bulk-dgrad
--disable-tp-comm-bulk-wgrad --disable-tp-comm-overlap-ag --disable-tp-comm-overlap-rs
--disable-tp-comm-split-ag --disable-tp-comm-split-rs --distribute-checkpointed-activations
--distribute-saved-activations --dump-param-to-param-group-map --embedding-path
--empty-unused-memory-level --enable-chunked-prefill --enable-cuda-graph --enable-experimental
--enable-full-sharding-in-hsdp --encoder-num-layers --encoder-pipeline-model-parallel-size
--encoder-seq-length --encoder-tensor-model-parallel-size --evidence-data-path --exp-avg-dtype
--exp-avg-sq-dtype --expert-model-parallel-size --expert-tensor-parallel-size
--external-cuda-graph --fake-process-group --ffn-hidden-size --fim-data
--first-last-layers-bf16 --flash-decode --fp16 --fp32-residual-connection --fp4-format
--fp4-param-gather --fp4-recipe --fp8-format --fp8-param-gather --freeze-all-layers
--fsdp-db-use-persist-buf-on-alloc-fail --fsdp-double-buffer --fsdp-manual-registration
--global-batch-size --grad-reduce-in-bf16 --group-query-attention --gtp-expert-remat-nccl-ub
--gtp-remat-nccl-ub --gtp-remat-reduce-scatter-with-fp32-accumulation --head-lr-mult
--heterogeneous-layers-config-encoded-json --heterogeneous-layers-config-path --hidden-dropout
--hidden-size --hierarchical-context-parallel-sizes --high-priority-stream-groups
--hybrid-attention-ratio --hybrid-layer-pattern --hybrid-mlp-ratio --hybrid-override-pattern
--ict-head-size --ict-load --img-dim --img-h --img-w --indexer-batch-size
--indexer-log-interval --inference-batch-times-seqlen-threshold --inference-coordinator-port
--inference-cuda-graph-all-prefills --inference-cuda-graph-max-tokens
--inference-disable-ep-consensus --inference-logging-step-interval --inference-max-batch-size
--inference-max-requests --inference-max-seq-length --inference-shards
--inference-text-gen-server-logging --inference-use-synchronous-zmq-collectives
--inference-wandb-logging --is-hybrid-model --iter-per-epoch --keep-fp8-transpose-cache
--keep-fp8-transpose-cache-when-using-custom-fsdp --kitchen-config-file
--kitchen-recipe-number --kv-channels --kv-lora-rank --linear-attention-freq
--main-grads-dtype --main-params-dtype --make-vocab-size-divisible-by --mamba-head-dim
--mamba-inference-conv-states-dtype --mamba-inference-ssm-states-dtype --mamba-num-groups
--mamba-num-heads --mamba-state-dim --mamba-training-ssm-states-dtype --mask-factor
--mask-type --max-position-embeddings --max-tokens-to-oom
--megatron-fsdp-enable-fine-grained-param-gather --megatron-fsdp-grad-comm-dtype
--megatron-fsdp-main-grads-dtype --megatron-fsdp-main-params-dtype
--megatron-fsdp-max-pool-double-buffer --megatron-fsdp-version --merge-file --micro-batch-size
--microbatch-group-size-per-virtual-pipeline-stage --mla-down-proj-fusion
--mlp-chunks-for-prefill --model-parallel-size --moe-apply-probs-on-input --moe-deepep-num-sms
--moe-enable-deepep --moe-expert-capacity-factor --moe-extended-tp --moe-hybridep-num-sms
--moe-ffn-hidden-size
--moe-layer-freq --moe-layer-recompute --moe-pad-expert-input-to-capacity
--moe-pad-experts-for-cuda-graph-inference --moe-router-force-load-balancing
--moe-router-padding-for-fp8 --moe-router-topk --moe-shared-expert-intermediate-size
--moe-shared-expert-overlap --moe-token-dropping --moe-upcycling-granularity
--moe-use-legacy-grouped-gemm --moe-use-upcycling --mrope-section --mtp-num-layers
--multi-latent-attention --muon-tp-mode --nccl-all-reduce-for-prefill
--nccl-communicator-config-path --no-align-grad-reduce --no-align-param-gather
--no-clone-scatter-output-in-embedding --no-data-sharding --no-delay-grad-reduce
--no-fp8-wgrad --no-gradient-accumulation-fusion --no-gradient-reduce-div-fusion
--no-pin-cpu-grads --no-pin-cpu-params --no-position-embedding
--no-use-layer-wise-param-layout --no-yarn-correction-range-round-to-int --normalization
--num-attention-heads --num-channels --num-classes --num-distributed-optimizer-instances
--num-experts --num-layers --num-layers-at-end-in-bf16 --num-layers-at-start-in-bf16
--num-layers-per-virtual-pipeline-stage --num-query-groups --num-speculative-tokens
--num-virtual-stages-per-pipeline-rank --optimizer --optimizer-cpu-offload
--optimizer-cuda-graph --optimizer-offload-fraction --outer-dp-sharding-strategy
--output-bert-embeddings --output-logit-dtype --overlap-cpu-optimizer-d2h-h2d
--overlap-grad-reduce --overlap-moe-expert-parallel-comm
--overlap-p2p-communication-warmup-flush --overlap-param-gather
--overlap-param-gather-with-optimizer-step --padded-vocab-size --patch-dim
--per-dataset-sequences-path --per-split-data-args-path --perform-rl-step
--phase-transition-iterations --pipeline-model-parallel-comm-backend
--pipeline-model-parallel-layout --pipeline-model-parallel-size
--pipeline-model-parallel-split-rank --position-embedding-type --q-lora-rank --qk-head-dim
--qk-l2-norm --qk-layernorm --qk-pos-emb-head-dim --query-in-block-prob --quick-geglu
--recompute-activations --recompute-granularity --recompute-method
--recompute-modules --recompute-num-layers --refit-method --relative-attention-max-distance
--relative-attention-num-buckets --replication --replication-factor --replication-jump
--reset-attention-mask --retriever-report-topk-accuracies --retriever-score-scaling
--retriever-seq-length --reuse-grad-buf-for-mxfp8-param-ag --rope-type --seq-length
--sequence-parallel --sft --sft-tokenizer-prompt-format --sharp-enabled-group --skip-train
--softmax-type --spec --standalone-embedding-stage
--suggested-communication-unit-size --swiglu --swin-backbone-type --symmetric-ar-type
--te-precision-config-file --tensor-model-parallel-size --titles-data-path --tokenizer-type
--torch-fsdp2-no-reshard-after-forward --tp-comm-bootstrap-backend --tp-comm-overlap
--tp-comm-overlap-cfg --tp-comm-overlap-rs-dgrad --train-sync-interval --transformer-impl
--untie-embeddings-and-output-weights --use-checkpoint-args --use-custom-fsdp
--use-distributed-optimizer --use-legacy-static-engine
--use-megatron-fsdp --use-mp-args-from-checkpoint-args --use-nccl-ub --use-one-sent-docs
--use-precision-aware-optimizer --use-rotary-position-embeddings
--use-same-sampling-seed-across-dp-ranks --use-sharp --use-te-activation-func
--use-torch-fsdp2 --use-torch-optimizer-for-cpu-offload --v-head-dim --vision-backbone-type
--vision-pretraining --vision-pretraining-type --vocab-extra-ids --vocab-size
--wgrad-deferral-limit --window-attn-skip-freq --window-size --yaml-cfg
--yarn-correction-range-round-to-int --yarn-original-max-position-embeddings
"""

ARGUMENTS = frozenset((*NO_EFFECT, *_OTHERS.split()))
"""Every argument, for names that are nearly right."""
