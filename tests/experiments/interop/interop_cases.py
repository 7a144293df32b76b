"""Plans that are exported in the tests, each with what its targets refuse."""

from parplan.sim.models.model import model_preset
from parplan.sim.plan import Plan, zero_fields
from parplan.sim.software.framework import NO_OVERHEAD
from parplan.sim.workload import Workload

CASES: dict[str, tuple[Plan, Workload, str]] = {
    "three-dimensions": (
        Plan(
            num_stages=4,
            virtual_stages=2,
            schedule="interleaved-1f1b",
            num_micro_batches=32,
            data_parallel=4,
            tensor_parallel=8,
            sequence_parallel=True,
            recomputation="selective",
            distribute_param=True,
            overlap_parameter_gather=True,
            gradient_dtype="fp32",
        ),
        Workload(
            model=model_preset("gpt3-175b"), seq_len=2048, global_batch=128, framework=NO_OVERHEAD
        ),
        "128xa100",
    ),
    "sharded": (
        Plan(
            num_micro_batches=2,
            batch_per_device=2,
            data_parallel=16,
            recomputation="full",
            shard_group=8,
            gradient_dtype="fp32",
            **zero_fields(3),  # type: ignore[arg-type]
        ),
        Workload(
            model=model_preset("llama3-8b"), seq_len=8192, global_batch=64, framework=NO_OVERHEAD
        ),
        "16xh100",
    ),
    "experts": (
        Plan(
            num_stages=2,
            stage_layers=(14, 13),
            schedule="zb-h1",
            num_micro_batches=8,
            data_parallel=4,
            expert_parallel=4,
            distribute_param=True,
        ),
        Workload(
            model=model_preset("deepseek-v2-lite"),
            seq_len=4096,
            global_batch=32,
            framework=NO_OVERHEAD,
        ),
        "8xh100",
    ),
    "long-sequences": (
        Plan(
            num_micro_batches=4,
            data_parallel=2,
            tensor_parallel=2,
            sequence_parallel=True,
            context_parallel=2,
            overlap_tensor_parallel=True,
            offload_optimizer=True,
            **zero_fields(2),  # type: ignore[arg-type]
        ),
        Workload(
            model=model_preset("llama3-8b"),
            seq_len=32768,
            global_batch=8,
            precision="fp8",
            framework=NO_OVERHEAD,
        ),
        "8xh100",
    ),
}
"""By name: the plan, its workload, and the cluster."""
