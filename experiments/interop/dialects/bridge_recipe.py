"""What overrides of Megatron-Bridge leave to the recipe that they are merged into."""

from collections.abc import Mapping
from typing import Any

SIZES = ("tensor_model_parallel_size", "pipeline_model_parallel_size", "context_parallel_size")


def with_recipe(table: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """The overrides over what most recipes have, and what was taken, by the setting's name.

    Base: recipes/common.py of Megatron-Bridge, bf16_mixed with the distributed optimizer. The
    recipe of a model may differ.
    """
    merged, taken = dict(table), {}
    model, ddp = _section(table, "model"), _section(table, "ddp")
    mixed, optimizer = _section(table, "mixed_precision"), _section(table, "optimizer")
    named = "mixed_precision" in table and not mixed
    if not named and not {"bf16", "fp16"} & {*mixed, *model}:
        merged["mixed_precision"] = {**mixed, "bf16": True} if mixed else "bf16_mixed"
        taken["mixed_precision"] = "bf16_mixed"
    if not {"use_distributed_optimizer", "use_megatron_fsdp"} & {*ddp, *optimizer}:
        merged["ddp"] = {**ddp, "use_distributed_optimizer": True}
        taken["ddp.use_distributed_optimizer"] = "true"
    for size in SIZES:
        if size not in model:
            taken[f"model.{size}"] = "1"
    return merged, taken


def _section(table: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = table.get(name)
    return value if isinstance(value, Mapping) else {}
