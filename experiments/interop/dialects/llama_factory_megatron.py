"""Settings of LLaMA-Factory's Megatron backends (mcore_adapter, Megatron-Bridge)."""

from parplan.experiments.interop.importers.asked import Asked
from parplan.experiments.interop.importers.imported import ImportedSettings
from parplan.experiments.interop.keys.effects import by_reason
from parplan.sim.software.presets import habits_like

DEGREES = {
    "tensor_model_parallel_size": "tensor_parallel",
    "pipeline_model_parallel_size": "num_stages",
    "expert_model_parallel_size": "expert_parallel",
    "context_parallel_size": "context_parallel",
}

OF_MEGATRON = ("tensor_model_parallel_size", "pipeline_model_parallel_size")
"""Names by which a file is told to be for Megatron."""

OF_TRANSFORMERS = ("kernels:", "deepspeed, fsdp:", "gradient_checkpointing:")
"""Notes of what Transformers alone has."""

NO_EFFECT = by_reason(
    {
        "the model of kernels has it already": """
bias_activation_fusion apply_rope_fusion masked_softmax_fusion cross_entropy_loss_fusion
moe_grouped_gemm moe_token_dispatcher_type""",
        "as is assumed": "mixed_precision use_packed_sequences",
    }
)


def is_for_megatron(table: Asked) -> bool:
    """Whether Megatron trains, not Transformers."""
    return any(name in table for name in OF_MEGATRON)


def megatron_part(table: Asked, found: ImportedSettings) -> None:
    """Set degrees, sharding, overlap and recomputation, and the software's habits."""
    found.plan |= {ours: table.whole(name, 1, least=1) for name, ours in DEGREES.items()}
    own = table.number("expert_tensor_parallel_size", least=1)
    if own is not None and own != found.plan["tensor_parallel"]:
        found.plan["expert_tensor_parallel"] = own
    virtual = table.whole("virtual_pipeline_model_parallel_size", 1, least=1)
    if virtual > 1:
        found.plan |= {"virtual_stages": virtual, "schedule": "interleaved-1f1b"}
    found.plan |= {
        "sequence_parallel": table.true("sequence_parallel") and found.plan["tensor_parallel"] > 1,
        "distribute_param": table.true("use_distributed_optimizer"),
        "overlap_gradient_reduction": table.true("overlap_grad_reduce"),
        "overlap_parameter_gather": table.true("overlap_param_gather"),
        "gradient_dtype": "fp32",
    }
    kind = table.text("recompute_granularity")
    method, count = table.text("recompute_method"), table.number("recompute_num_layers", least=1)
    found.plan.pop("recomputation", None)
    if kind == "full":
        found.plan["recomputation"] = "full"
        found.plan["recomputed_layers"] = count if method == "block" else None
    elif kind == "selective":
        found.plan |= {"recomputation": "selective", "recomputed_ops": ["attention"]}
    elif kind:
        found.misread(f"recompute_granularity {kind}", "nothing is recomputed")
    found.software = "megatron"
    found.workload = {
        name: value for name, value in found.workload.items() if not name.startswith("fused_")
    }
    found.workload["software"] = habits_like("megatron")
    found.notes = [note for note in found.notes if not note.startswith(OF_TRANSFORMERS)]
