"""Plans for the Trainer of Hugging Face Transformers: TrainingArguments and their DeepSpeed JSON.

Names: TrainingArguments of Transformers 5.24.
"""

from parplan.errors import ParplanError
from parplan.experiments.interop.exporters.exported import Exported, layout_line
from parplan.experiments.interop.exporters.to_deepspeed import to_deepspeed
from parplan.experiments.interop.megatron_settings import as_yaml
from parplan.hardware.network.cluster import Cluster
from parplan.sim.plan import Plan
from parplan.sim.workload import Workload

ARGUMENTS = "training_arguments.yaml"
ATTENTION = {"eager": "eager", "unfused": "eager", "flash": "flash_attention_3"}
FUSED = ("fused_norms", "fused_elementwise", "fused_loss")
OPTIMIZERS = {"sgd": "sgd", "adamw-8bit": "adamw_bnb_8bit"}

OF_ARGUMENTS = ("recomputation ", "recomputed_ops", "the program", "workload.optimizer")


def to_transformers(plan: Plan, workload: Workload, cluster: Cluster) -> Exported:
    """`training_arguments.yaml` and `deepspeed.json`.

    Raises `ParplanError` for a pipeline, experts that are spread and context parallelism.
    """
    for name in ("num_stages", "expert_parallel", "context_parallel"):
        if getattr(plan, name) > 1:
            raise ParplanError(f"{name} {getattr(plan, name)}: the Trainer with DeepSpeed has none")
    beside = to_deepspeed(plan, workload, cluster)
    table = {
        "per_device_train_batch_size": plan.batch_per_device,
        "gradient_accumulation_steps": plan.num_micro_batches,
        "gradient_checkpointing": plan.recomputation == "full" and plan.recomputed_layers != 0,
        "bf16": workload.precision in ("bf16", "fp8", "fp4"),
        "fp16": workload.precision == "fp16",
        "tf32": workload.tf32,
        "optim": OPTIMIZERS.get(workload.optimizer, "adamw_torch_fused"),
        "attn_implementation": ATTENTION.get(workload.attention, "flash_attention_2"),
        "deepspeed": "deepspeed.json",
    }
    head = (
        f"# {layout_line(plan, workload, cluster)}\n"
        "# attn_implementation is an argument of from_pretrained; sequences are as long as the "
        "data makes them.\n"
    )
    text = head + as_yaml(table)
    lines = [line for line in beside.unsaid if not line.startswith(OF_ARGUMENTS)]
    if plan.recomputation == "selective":
        ops = ", ".join(plan.recomputed_ops)
        lines.append(f"recomputed_ops {ops}: the Trainer recomputes all of a block, or nothing")
    lines.append(f"workload.seq_len {workload.seq_len}: the length that the data is packed to")
    if workload.optimizer not in OPTIMIZERS and workload.optimizer != "adamw":
        lines.append(f"workload.optimizer {workload.optimizer}: exported as AdamW; pass your own")
    fused = [name for name in FUSED if getattr(workload, name)]
    if fused:
        lines.append(f"workload.{' '.join(fused)}: models are eager; use_liger_kernel fuses")
    if workload.lora_rank:
        lines.append(f"workload.lora_rank {workload.lora_rank}: LoraConfig(r={workload.lora_rank})")
    return Exported(files={ARGUMENTS: text, **beside.files}, unsaid=tuple(lines))
