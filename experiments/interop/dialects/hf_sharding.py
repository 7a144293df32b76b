"""How a Hugging Face trainer shards: its DeepSpeed or FSDP part."""

import re
from collections.abc import Mapping
from typing import Any

from parplan._strict import parse_json, read_text
from parplan.errors import ParplanError
from parplan.experiments.interop.beside import beside
from parplan.experiments.interop.importers.asked import Asked
from parplan.experiments.interop.importers.from_accelerate import STRATEGIES
from parplan.experiments.interop.importers.from_deepspeed import deepspeed_settings, engine_table
from parplan.experiments.interop.importers.imported import Given, ImportedSettings
from parplan.sim.plan import zero_fields

NAMED = re.compile(r"(?:^|[_-])(?:z|zero|stage)[_-]?(?:stage)?[_-]?([0-3])(?!\d)")
"""The stage of ZeRO in the names of DeepSpeed's files: `ds_z3_offload_config.json`."""

OF_BATCHES = ("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps")


def sharding(table: Asked, found: ImportedSettings, given: Given, auto: dict[str, bool]) -> None:
    """Set the plan's ZeRO stage, groups, offloading and degrees, and the software's habits."""
    _degrees(table, found)
    part = table.get("deepspeed")
    if part in (True, "true", "True"):
        part = table.get("deepspeed_config") or part
    if part in (True, "true", "True"):
        _by_flags(table, found)
    elif part:
        _deepspeed(part, table, found, given, auto)
    elif table.get("fsdp") or table.get("fsdp_config"):
        _fsdp(table, found)


def _by_flags(table: Asked, found: ImportedSettings) -> None:
    """`--deepspeed` without a file, as in DeepSpeed's examples: `--zero_stage 3 --offload`."""
    stage = table.number("zero_stage", least=0)
    if stage is None:
        found.misread("deepspeed", "neither a file nor zero_stage is said; no ZeRO is taken")
    elif stage > 3:
        raise table.error("zero_stage", "0 to 3")
    found.plan |= dict(zero_fields(stage or 0))
    if table.true("offload"):
        found.plan["offload_optimizer"] = True
        if stage == 3:
            found.misread("offload", "not modelled: parameters stay on the device")


def _degrees(table: Asked, found: ImportedSettings) -> None:
    """Degrees of Axolotl and of `parallelism_config`."""
    tensor = table.whole("tensor_parallel_size", 1, least=1)
    context = table.whole("context_parallel_size", 1, least=1)
    split = table.whole("sequence_parallel_degree", 1, least=1)
    split = max(split, table.whole("sequence_parallel_size", 1, least=1))
    table.get("dp_shard_size")
    found.copies = table.whole("dp_replicate_size", 1, least=1)
    if split > 1:
        found.note("sequence_parallel_degree", "a ring of attention: taken as context parallelism")
    found.plan |= {"tensor_parallel": tensor, "context_parallel": max(context, split)}
    if isinstance(table.get("parallelism_config"), Mapping):
        section = table.section("parallelism_config")
        found.plan["tensor_parallel"] = section.whole("tp_size", tensor, least=1)
        found.plan["context_parallel"] = section.whole("cp_size", context, least=1)
        found.copies = section.whole("dp_replicate_size", found.copies, least=1)
        section.get("dp_shard_size")


def _deepspeed(
    part: Any, table: Asked, found: ImportedSettings, given: Given, auto: dict[str, bool]
) -> None:
    """DeepSpeed's own table, or the file of that name beside the launch."""
    where = f"{table.where}: deepspeed"
    if isinstance(part, str) and part.lstrip().startswith("{"):
        part = _json(part, where)
    if isinstance(part, str):
        path = beside(table.where, part)
        if path is None:
            _named(part, table, found)
            return
        where, part = str(path), engine_table(read_text(path), str(path))
    if not isinstance(part, Mapping):
        raise table.error("deepspeed", "a table or the name of a JSON")
    said = {key: value for key, value in part.items() if key not in OF_BATCHES}
    inner = deepspeed_settings(said, where, given, auto)
    of_batches = ("batch_per_device",)
    found.plan |= {k: v for k, v in inner.plan.items() if k not in of_batches}
    if inner.workload["precision"] != "fp32":
        found.workload["precision"] = inner.workload["precision"]
    found.workload["software"] = inner.workload["software"]
    _differing(part, table, found)
    skipped = ("the program", "the optimizer", *OF_BATCHES)
    found.notes += [n for n in inner.notes if not n.startswith(skipped)]
    found.no_effect |= {f"deepspeed.{name}": why for name, why in inner.no_effect.items()}
    found.not_understood |= {f"deepspeed.{name}": why for name, why in inner.not_understood.items()}


def _differing(part: Mapping[str, Any], table: Asked, found: ImportedSettings) -> None:
    """Numbers that both files have, which Transformers refuses where they differ."""
    names = {
        "train_micro_batch_size_per_gpu": "per_device_train_batch_size",
        "gradient_accumulation_steps": "gradient_accumulation_steps",
    }
    for theirs, ours in names.items():
        value, own = part.get(theirs), table.get(ours)
        if isinstance(value, int) and own is not None and str(value) != str(own):
            found.misread(
                f"deepspeed.{theirs}", f"{value} differs from {ours} {own}, which is taken"
            )


def _named(name: str, table: Asked, found: ImportedSettings) -> None:
    """A file that is not there: known by its name, or refused."""
    match = NAMED.search(name.rpartition("/")[2])
    if match is None:
        raise ParplanError(
            f"{table.where}: deepspeed: {name} is not beside the file; put it there, or import it "
            "by itself with --from deepspeed"
        )
    stage = int(match[1])
    found.plan |= dict(zero_fields(stage))
    found.plan["offload_optimizer"] = "offload" in name
    found.misread(f"deepspeed {name}", f"not beside the file; by its name it is ZeRO-{stage}")


def _json(text: str, where: str) -> Any:
    return parse_json(text, where)


def _fsdp(table: Asked, found: ImportedSettings) -> None:
    words = table.get("fsdp") or []
    words = words.split() if isinstance(words, str) else words if isinstance(words, list) else []
    names = {str(word).lower() for word in words}
    _read_config(table, found)
    section = table.section("fsdp_config")
    stage = _stage(names, section, table, found)
    found.plan |= {**zero_fields(stage), "overlap_parameter_gather": stage > 0}
    if names & {"hybrid_shard", "hybrid_shard_zero2"} and found.copies == 1:
        found.misread(
            "fsdp hybrid_shard", "shards are taken to lie on all ranks; --set shard_group=8"
        )
    offloaded = [_either(section, "offload_params"), _either(section, "cpu_offload")]
    if "offload" in names or any(value in (True, "true") for value in offloaded):
        found.plan["offload_optimizer"] = True
        found.misread(
            "fsdp offload",
            "not modelled: parameters stay on the device, the optimizer alone is offloaded",
        )
    if _either(section, "activation_checkpointing") in (True, "true"):
        found.plan["recomputation"] = "full"
    policy = str(_either(section, "auto_wrap_policy") or "TRANSFORMER_BASED_WRAP").upper()
    wrapped = policy != "NO_WRAP" and (not names or bool(section) or "auto_wrap" in names)
    if stage == 3 and not wrapped:
        found.plan |= {**zero_fields(2), "overlap_parameter_gather": False}
        found.note("fsdp", "without auto_wrap the whole model is gathered at once, as in ZeRO-2")


def _read_config(table: Asked, found: ImportedSettings) -> None:
    """Put `fsdp_config` in the place of a text or of the file that it names."""
    config = table.get("fsdp_config")
    if not isinstance(config, str):
        return
    inner: Any = {}
    if config.lstrip().startswith("{"):
        inner = _json(config, f"{table.where}: fsdp_config")
    elif (path := beside(table.where, config)) is not None:
        inner = _json(read_text(path), str(path))
    else:
        found.misread(f"fsdp_config {config}", "not beside the file; its defaults are taken")
    if not isinstance(inner, Mapping):
        raise ParplanError(f"{table.where}: fsdp_config: expected a table, got {config:.60}")
    table.sections["fsdp_config"] = Asked(inner, table.where, "fsdp_config.")


def _either(section: Asked, name: str) -> Any:
    """A value with or without `fsdp_` before its name."""
    values = [section.get(name), section.get(f"fsdp_{name}")]
    return next((value for value in values if value is not None), None)


def _stage(names: set[str], section: Asked, table: Asked, found: ImportedSettings) -> int:
    """ZeRO's stage of FSDP: by the words of `fsdp`, the strategy, or `reshard_after_forward`."""
    version = str(_either(section, "version") or table.get("fsdp_version") or 1)
    again = _either(section, "reshard_after_forward")
    strategy = _either(section, "sharding_strategy")
    if strategy is None and str(again).upper() in STRATEGIES:
        strategy = again
    if strategy is not None:
        named = str(strategy).upper()
        if named not in STRATEGIES:
            raise section.error("sharding_strategy", "FULL_SHARD, SHARD_GRAD_OP or NO_SHARD")
        return STRATEGIES[named]
    if names & {"shard_grad_op", "hybrid_shard_zero2"}:
        return 2
    if "no_shard" in names:
        return 0
    odd = names - {"full_shard", "auto_wrap", "offload", "hybrid_shard", "true"}
    if odd:
        found.misread(f"fsdp {' '.join(sorted(odd))}", "full_shard is taken")
    return 2 if version == "2" and str(again).lower() == "false" else 3
