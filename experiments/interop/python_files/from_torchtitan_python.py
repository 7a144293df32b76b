"""What a Python configuration of torchtitan (0.3 to August 2026) asks for."""

import ast
import dataclasses
import re
from typing import Any

from parplan.errors import ParplanError
from parplan.experiments.interop.importers.asked import Asked, report_rest
from parplan.experiments.interop.importers.from_torchtitan import (
    from_torchtitan,
    torchtitan_settings,
)
from parplan.experiments.interop.importers.imported import Given, ImportedSettings
from parplan.experiments.interop.keys.torchtitan_keys import NO_EFFECT, NOT_MODELLED
from parplan.experiments.interop.python_files.python_config import (
    CHOICE,
    PythonFile,
    called,
    chosen_function,
    read_python,
)
from parplan.experiments.interop.python_files.python_values import Elsewhere, Made, NotKnown
from parplan.sim.software.presets import habits_like

CONVERTERS = {
    "Float8LinearConverter": "fp8",
    "Float8GroupedExpertsConverter": "fp8",
    "Float8GroupedMMConverter": "fp8",
    "MXFP8LinearConverter": "fp8",
    "MXFP8GroupedExpertsConverter": "fp8",
    "NVFP4LinearConverter": "fp4",
}

ADAM = ("default_adamw", "OptimizersContainer", "AdamW", "Adam")

NO_EFFECT_HERE = NO_EFFECT | {
    "loss.*": "which loss is computed",
    "tokenizer.*": "the data set, which is taken to be read in time",
    "hf_assets_path": "the data set, which is taken to be read in time",
    "dump_folder": "logging and profiling",
    "override.*": "which modules are replaced",
    "optimizer.*": "numbers of the optimizer",
}


def from_any_torchtitan(text: str, where: str, given: Given) -> ImportedSettings:
    """The settings of a TOML or of a Python configuration."""
    python = where.endswith(".py") or re.search(r"^(from|import) +torchtitan", text, re.MULTILINE)
    return _from_python(text, where, given) if python else from_torchtitan(text, where, given)


def _from_python(text: str, where: str, given: Given) -> ImportedSettings:
    file = read_python(text, where, followed="Trainer")
    config = called(file, _chosen(file, given.variables.get(CHOICE)))
    around = ImportedSettings()
    while isinstance(config, Made) and config.kind != "Trainer" and config.args:
        if not isinstance(config.args[0], Made):
            break
        around.misread(config.name, "what it changes in the configuration is not read")
        config = _over(config.fields, config.args[0])
    if not isinstance(config, Made):
        raise ParplanError(
            f"{where}: the configuration is not made by Trainer.Config or a function"
        )
    tables = {name: _plain(value) for name, value in config.fields.items()}
    found_in_model = _model_spec(config, file, given, tables)
    graphs = _tokens(tables)
    tables["activation_checkpoint"] = _recomputation(config.fields)
    root = Asked(tables, where)
    found = torchtitan_settings(root, given)
    for part in (found_in_model, around):
        found.not_understood.update(part.not_understood)
        found.notes[:0] = part.notes
    found.workload |= found_in_model.workload
    if _with_graphs(root, found, graphs=graphs):
        _change(found, step_graph=True)
    _optimizer(config.fields.get("optimizer"), found)
    for line in file.unread:
        found.misread(line, "not followed")
    for name in ("model_spec", "model_converters", "loss", "optimizer"):
        root.get(name)
    if config.kind != "Trainer":
        _of_other_file(config, found)
    report_rest(found, root, NO_EFFECT_HERE, NOT_MODELLED)
    return found


def _over(fields: dict[str, Any], base: Made) -> Made:
    """A configuration with fields set after a function has changed it."""
    merged = dict(base.fields)
    for name, value in fields.items():
        before = merged.get(name)
        partial = isinstance(value, Made) and value.name == name and isinstance(before, Made)
        merged[name] = _over(value.fields, before) if partial and before is not None else value
    return Made(base.name, base.args, merged)


def _of_other_file(config: Made, found: ImportedSettings) -> None:
    """Say what becomes of a base in another file: nothing where all that counts is set here."""
    training, parallel = (config.fields.get(name) for name in ("training", "parallelism"))
    whole = (
        isinstance(parallel, Made)
        and parallel.kind == "ParallelismConfig"
        and isinstance(training, Made)
        and {"seq_len", "local_batch_size"} <= set(training.fields)
        and {"activation_checkpoint", "compile"} <= set(config.fields)
    )
    what = "what it sets beside is in another file; defaults are taken"
    if whole:
        found.note(config.name, what)
    else:
        found.misread(config.name, what)


def _change(found: ImportedSettings, **changes: Any) -> None:
    """Set switches of the software that is read."""
    known = found.workload.get("software") or habits_like("torchtitan")
    found.workload["software"] = dataclasses.replace(known, **changes)


def _chosen(file: PythonFile, asked: str | None) -> str:
    """The function that makes the configuration."""
    names = [name for name, node in file.functions.items() if _makes(node.returns)]
    missing = "a configuration of torchtitan: no function returns a Trainer.Config"
    return chosen_function(file, names, asked, (missing, "configurations"))


def _makes(returns: Any) -> bool:
    return returns is not None and "Trainer" in ast.unparse(returns)


def _plain(value: Any) -> Any:
    """Calls as tables of their arguments, at any depth."""
    if isinstance(value, Made):
        return {name: _plain(inner) for name, inner in value.fields.items()}
    if isinstance(value, Elsewhere):
        return value.name.rpartition(".")[2]
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, NotKnown):
        return repr(value)
    return value


def _recomputation(fields: dict[str, Any]) -> dict[str, Any]:
    """The section as the TOML has it; without one torchtitan recomputes by operation."""
    again = fields.get("activation_checkpoint", Made("SelectiveAC"))
    if again is None:
        return {"mode": "none"}
    table: dict[str, Any] = _plain(again)
    if not isinstance(table, dict):
        return {"mode": str(again)}
    kind = again.kind if isinstance(again, Made) else ""
    modes = {"FullAC": "full", "MemoryBudgetAC": "memory_budget", "SelectiveAC": "selective"}
    table.setdefault("mode", modes.get(kind, "selective"))
    table.setdefault("selective_ac_option", "op")
    table.pop("force_recompute_mm_shapes_by_fqns", None)
    return table


def _tokens(tables: dict[str, Any]) -> bool:
    """Put batches in tokens (since August 2026) as batches of sequences; whether they were."""
    training = tables.setdefault("training", {})
    if not isinstance(training, dict):
        return False
    tokens = training.pop("num_tokens_per_microbatch_per_dp_rank", None)
    length = training.pop("max_context_length", None)
    step = training.pop("num_tokens_per_train_step", None)
    parallel = tables.setdefault("parallelism", {})
    count = parallel.pop("num_pp_microbatches", 1) if isinstance(parallel, dict) else 1
    if tokens is None and length is None and step is None:
        return False
    tokens, length = tokens or 16384, length or 2048
    if not all(isinstance(value, int) and value > 0 for value in (tokens, length, count)):
        return False
    micro = max(1, tokens // length)
    stages = parallel.get("pipeline_parallel_degree", 1)
    count = count if stages != 1 else 1
    training |= {"seq_len": length, "local_batch_size": micro * count}
    parallel["pipeline_parallel_microbatch_size"] = micro
    if isinstance(step, int) and step > 0:
        training["global_batch_size"] = step // length
    return True


def _with_graphs(root: Asked, found: ImportedSettings, *, graphs: bool) -> bool:
    """Whether a step is one graph: the default where batches are in tokens, with one stage."""
    off = root.section("training").true("disable_cuda_graphs")
    experts = found.model is not None and found.model.moe is not None
    return graphs and not off and found.plan["num_stages"] == 1 and not experts


def _model_spec(
    config: Made, file: PythonFile, given: Given, tables: dict[str, Any]
) -> ImportedSettings:
    """Set the model's family and size in `tables`; precision, adapters and what is not known."""
    found = ImportedSettings()
    spec = config.fields.get("model_spec")
    converters: list[Any] = []
    if isinstance(spec, Made) and spec.kind == "model_registry":
        flavor = spec.args[0] if spec.args else spec.fields.get("flavor")
        tables["model"] = {"name": _family(file, spec.name), "flavor": str(flavor)}
        converters += spec.fields.get("converters") or []
        for name, value in spec.fields.items():
            _of_spec(name, value, found)
    elif (match := re.search(r"torchtitan\.models\.(\w+)\.\w+\.(\w+)$", config.name)) is not None:
        family, name = match[1], match[2]
        size = name.removeprefix(f"{family}_").replace("_", "-").replace("0-6b", "0.6b")
        tables["model"] = {"name": family, "flavor": size.replace("1-7b", "1.7b")}
    elif given.model is None:
        raise ParplanError(f"{file.where}: the model is made by {config.name}; give --model")
    older = config.fields.get("model_converters")
    if isinstance(older, Made):
        converters += older.fields.get("converters") or []
    for converter in converters:
        _converter(converter, found)
    return found


def _family(file: PythonFile, made_by: str) -> str:
    """The family by the module of `model_registry`, by the folder, or by the functions' names.

    Raises `ParplanError` where none of them says it: sizes of different families share names.
    """
    for source in (made_by, file.imported.get("model_registry", "")):
        if match := re.search(r"torchtitan\.models\.(\w+)", source):
            return match[1]
    if match := re.search(r"(?:^|/)(\w+)/config_registry\.py$", file.where):
        return match[1]
    known = ("llama3", "llama4", "qwen3", "deepseek_v3", "gpt_oss")
    names = [n for n, node in file.functions.items() if _makes(node.returns)]
    best = [
        family
        for family in known
        if any(re.search(rf"(?:^|_){family}_(?!5_)", name) for name in names)
    ]
    if not best:
        raise ParplanError(f"{file.where}: does not say the model's family; give --model")
    return max(best, key=len)


def _of_spec(name: str, value: Any, found: ImportedSettings) -> None:
    if name in ("flavor", "converters"):
        return
    if name == "attn_backend" and value in ("flex", "varlen", "sdpa", "flex_flash"):
        if value != "sdpa":
            found.note(f"attn_backend {value}", "every token is taken to attend to all before it")
    elif name == "moe_comm_backend" and value in ("standard", "deepep", "hybridep"):
        if value != "standard":
            _change(found, expert_dispatch="nodes")
    elif value not in (None, False, 0, "default"):
        found.misread(f"model_registry {name}", f"{value} is not known; left out")


def _converter(converter: Any, found: ImportedSettings) -> None:
    if not isinstance(converter, Made):
        found.misread("converters", f"{converter!r} is not known")
        return
    precision = CONVERTERS.get(converter.kind)
    if precision is not None:
        found.workload["precision"] = precision
        if "fqns" in converter.fields and converter.fields["fqns"] != ["layers"]:
            found.misread(f"{converter.kind} fqns", "all layers are taken to have such products")
        if converter.fields.get("enable_fsdp_float8_all_gather"):
            found.misread(
                "enable_fsdp_float8_all_gather", "not modelled: parameters are gathered in 16 bits"
            )
    elif converter.kind == "LoRAConverter":
        rank = converter.fields.get("rank", 8)
        found.workload["lora_rank"] = rank if isinstance(rank, int) else 8
    else:
        found.misread(f"converter {converter.kind}", "not known; products stay as they are")


def _optimizer(optimizer: Any, found: ImportedSettings) -> None:
    if optimizer is None:
        return
    kind = optimizer.kind if isinstance(optimizer, Made) else str(optimizer)
    if kind == "OptimizersInBackwardContainer":
        found.misread("optimizer", "not modelled: the optimizer steps after the backward")
    elif kind not in ADAM and kind != "optimizer":
        found.misread(f"optimizer {kind}", "its state is taken to be that of AdamW")
