"""What a TOML of torchtitan (April 2024 to 0.2) asks for. Defaults are those of 0.2.2."""

import itertools
import re
from typing import Any

from parplan._strict import parse_toml
from parplan.errors import ParplanError, unknown_name
from parplan.experiments.interop.importers.asked import Asked, refuse_other_format, report_rest
from parplan.experiments.interop.importers.imported import Given, ImportedSettings
from parplan.experiments.interop.keys.torchtitan_keys import NO_EFFECT, NOT_MODELLED
from parplan.experiments.interop.torchtitan_settings import FLAVORS, OLD_FLAVORS, SCHEDULES
from parplan.planners.spaces.recomputed import EVERY_SECOND_PRODUCT
from parplan.sim.models.model import Model, model_preset
from parplan.sim.plan import zero_fields

MOST_STAGES = 10_000

SECTIONS = ("model", "training", "parallelism", "activation_checkpoint", "compile", "optimizer")

EXPERIMENTAL = "experimental"
"""The section of pipelines and context parallelism before 2025."""

OLD_SCHEDULES = {
    "1f1b": "1f1b",
    "gpipe": "gpipe",
    "interleaved_1f1b": "interleaved-1f1b",
    "flexible_interleaved_1f1b": "interleaved-1f1b",
    "FlexibleInterleaved1F1B": "interleaved-1f1b",
    "ZBV": "zb-v",
}
"""Names before 2025."""


def from_torchtitan(text: str, where: str, given: Given) -> ImportedSettings:
    """The settings of a TOML."""
    root = Asked(parse_toml(text, where), where)
    known = (*SECTIONS, EXPERIMENTAL, *NO_EFFECT, *NOT_MODELLED)
    refuse_other_format(root, known, "a configuration of torchtitan")
    found = torchtitan_settings(root, given)
    report_rest(found, root, NO_EFFECT, NOT_MODELLED)
    return found


def torchtitan_settings(root: Asked, given: Given) -> ImportedSettings:
    """The settings of torchtitan's sections."""
    found = ImportedSettings()
    found.model = given.model or _model(root.section("model"))
    for name in ("name", "flavor"):
        root.section("model").get(name)
    training = root.section("training")
    found.seq_len = training.whole("seq_len", 2048, least=1)
    found.plan = _degrees(root)
    found.plan |= _pipeline(root, found)
    found.plan |= _sharding(root, found, given)
    found.plan |= _recomputation(root, found, found.model.num_layers)
    _batches(root, found, given)
    found.workload = {"precision": _precision(root, found)}
    found.software, found.workload["attention"] = "torchtitan", "flash-2"
    if training.true("enable_cpu_offload"):
        found.plan["offload_optimizer"] = True
        found.misread(
            "training.enable_cpu_offload",
            "not modelled: parameters stay on the device, the optimizer alone is offloaded",
        )
    name = root.section("optimizer").text("name", "AdamW")
    if name not in ("Adam", "AdamW"):
        found.misread(f"optimizer.name {name}", "its state is taken to be that of AdamW")
    _compiled(root, found)
    return found


def _compiled(root: Asked, found: ImportedSettings) -> None:
    compiled = root.section("compile")
    old = root.section("training").true("compile")
    parts = compiled.names("components", ("model", "loss"))
    if not (compiled.true("enable") or old):
        found.software = "fsdp"
        found.workload |= {"fused_norms": False, "fused_elementwise": False, "fused_loss": False}
        found.note("compile.enable false", "normalisations, activations and the loss are unfused")
        return
    found.workload["fused_loss"] = "loss" in parts
    if "model" not in parts:
        found.software = "fsdp"
        found.workload |= {"fused_norms": False, "fused_elementwise": False}


def _precision(root: Asked, found: ImportedSettings) -> str:
    training, model = root.section("training"), root.section("model")
    low = training.text("mixed_precision_param", "bfloat16")
    if low not in ("bfloat16", "float32"):
        raise training.error("mixed_precision_param", "bfloat16 or float32")
    narrow = root.section("float8").true("enable_float8_linear")
    narrow |= training.true("enable_float8_linear") or bool(training.get("fp8_linear"))
    for name in model.names("converters"):
        if re.fullmatch(
            r"float8|mx|quantize\.(linear|grouped_mm|dense)\.(float8|mx)", name.strip()
        ):
            narrow = True
        else:
            found.misread(f"model.converters {name}", "not known; products stay as they are")
    if narrow:
        return "fp8"
    return "bf16" if low == "bfloat16" else "fp32"


UNMODELLED = {
    "qwen3_5": "not modelled: layers of linear attention",
    "flux": "not modelled: models of images",
    "kimi_k2_7": "not modelled: vision beside language; give --model for the language part",
    "vlm": "not modelled: vision beside language; give --model for the language part",
    "muse_glimmer": "not known here; give --model",
}
"""Families of torchtitan, and why their sizes are not known here."""


def _model(section: Asked) -> Model:
    name, flavor = section.text("name", "llama3"), section.text("flavor", "debugmodel")
    plain = flavor.removesuffix("_flex").removesuffix("_varlen").removesuffix("_flex_attn")
    flavors = {**OLD_FLAVORS, **FLAVORS}
    for preset, known in flavors.items():
        if (known[0], known[1].lower()) == (name, plain.lower()):
            return model_preset(preset)
    if name in UNMODELLED:
        raise ParplanError(f"{section.where}: the model {name} {flavor}: {UNMODELLED[name]}")
    if flavor.lower().replace("-", "").startswith("debug"):
        raise ParplanError(
            f"{section.where}: the model {name} {flavor}: its sizes depend on the release; "
            "give --model"
        )
    known_names = dict.fromkeys(f"{family} {size}" for family, size in flavors.values())
    raise ParplanError(
        f"{section.where}: {unknown_name('flavor', f'{name} {flavor}', known_names)}; "
        "or give --model"
    )


def _home(root: Asked, key: str, *sections: str) -> Asked:
    """The first of these sections that has a key, else the first of all."""
    for name in sections:
        if key in root.section(name):
            return root.section(name)
    return root.section(sections[0])


def _degree(root: Asked, key: str, *older: str, default: int = 1) -> int:
    """A degree by its name, in `parallelism` or where older versions have it."""
    return _home(root, key, "parallelism", *older).whole(key, default)


def _degrees(root: Asked) -> dict[str, Any]:
    parallel = root.section("parallelism")
    tensor = _degree(root, "tensor_parallel_degree", "training")
    own = parallel.whole("expert_tensor_parallel_degree", tensor)
    sequence = parallel.true("enable_sequence_parallel", default=True)
    home = _home(root, "enable_async_tensor_parallel", "parallelism", EXPERIMENTAL, "compile")
    return {
        "tensor_parallel": tensor,
        "sequence_parallel": tensor > 1 and sequence,
        "context_parallel": _degree(root, "context_parallel_degree", EXPERIMENTAL),
        "expert_parallel": _degree(root, "expert_parallel_degree"),
        "expert_tensor_parallel": own if own != tensor else None,
        "overlap_tensor_parallel": home.true("enable_async_tensor_parallel") and tensor > 1,
    }


OF_PIPELINES = (
    *("pipeline_parallel_schedule", "pipeline_parallel_schedule_csv", "module_fqns_per_model_part"),
    *("pipeline_parallel_split_points", "pipeline_parallel_layers_per_stage"),
    *("pipeline_parallel_first_stage_less_layers", "pipeline_parallel_last_stage_less_layers"),
    *("pipeline_parallel_microbatches", "pipeline_parallel_microbatch_size", "num_pp_microbatches"),
)
"""Settings that have an effect with several stages alone."""


def _pipeline(root: Asked, found: ImportedSettings) -> dict[str, Any]:
    where = root.where
    stages = _degree(root, "pipeline_parallel_degree", EXPERIMENTAL, "training")
    if not 1 <= stages <= MOST_STAGES:
        raise ParplanError(f"{where}: pipeline_parallel_degree: 1 to {MOST_STAGES}, got {stages}")
    if stages == 1:
        for key in OF_PIPELINES:
            _home(root, key, "parallelism", EXPERIMENTAL).get(key)
        return {"num_stages": 1}
    names = OLD_SCHEDULES | {torch: name for name, torch in SCHEDULES.items()}
    key = "pipeline_parallel_schedule"
    given = _home(root, key, "parallelism", EXPERIMENTAL).text(key, "1F1B")
    csv = _home(root, f"{key}_csv", "parallelism", EXPERIMENTAL).text(f"{key}_csv")
    schedule = {name.lower(): own for name, own in names.items()}.get(given.lower())
    if csv:
        found.misread(
            f"{key}_csv {csv}",
            f"not read; taken as {schedule or '1f1b'}, try it by parplan simulate --schedule",
        )
        schedule = schedule or "1f1b"
    if schedule is None:
        raise ParplanError(f"{where}: {unknown_name('schedule', given, names)}")
    layers = _layers(root, found, stages, schedule)
    virtual = len(layers) // stages
    if (virtual > 1) == (schedule in ("1f1b", "gpipe")) or (
        schedule in ("zb-v", "dualpipe-v") and virtual != 2
    ):
        raise ParplanError(
            f"{where}: {given}: {virtual} stages on each of {stages} ranks, which it refuses"
        )
    return {
        "num_stages": stages,
        "virtual_stages": virtual,
        "schedule": schedule,
        "stage_layers": layers,
    }


def _layers(root: Asked, found: ImportedSettings, stages: int, schedule: str) -> list[int]:
    """Layers of every stage: by module names, by split points, or spread as torchtitan does."""
    parallel, where = root.section("parallelism"), root.where
    parts = parallel.get("module_fqns_per_model_part")
    if found.model is None:
        raise AssertionError("the model is read first")
    total_layers = found.model.num_layers
    ends = [
        parallel.whole(f"pipeline_parallel_{end}_stage_less_layers", 1, least=0)
        for end in ("first", "last")
    ]
    each = _home(root, "pipeline_parallel_layers_per_stage", "parallelism").number(
        "pipeline_parallel_layers_per_stage"
    )
    points = _split_points(root, total_layers)
    if parts:
        if not isinstance(parts, list) or not all(isinstance(part, list) for part in parts):
            raise ParplanError(f"{where}: module_fqns_per_model_part: expected lists of names")
        if len(parts) % stages:
            raise ParplanError(f"{where}: {len(parts)} model parts for {stages} pipeline ranks")
        return [sum(str(name).startswith("layers.") for name in part) for part in parts]
    if points:
        if len(points) % stages:
            raise ParplanError(f"{where}: {len(points)} model parts for {stages} pipeline ranks")
        return points
    effective = total_layers + sum(ends)
    if stages > total_layers:
        raise ParplanError(
            f"{where}: pipeline_parallel_degree: at most {total_layers}, the layers; got {stages}"
        )
    total = stages * (1 if schedule in ("1f1b", "gpipe") else 2)
    if each is not None and each > 0:
        total = -(-effective // each)
    least, rest = divmod(effective, total)
    layers = [least + (stage < rest) for stage in range(total)]
    layers[0] -= ends[0]
    layers[-1] -= ends[1]
    if min(layers) < 0 or total % stages:
        raise ParplanError(f"{where}: {total_layers} layers on {total} stages: {layers}")
    return layers


def _split_points(root: Asked, num_layers: int) -> list[int]:
    """Layers of the parts that begin at `layers.8` and the like; none where it is not said."""
    key = "pipeline_parallel_split_points"
    home = _home(root, key, "parallelism", EXPERIMENTAL)
    given = home.get(key) or []
    points = given.split(",") if isinstance(given, str) else given
    numbers = [0]
    for point in points if isinstance(points, list) else [None]:
        match = re.fullmatch(r"\s*layers\.(\d{1,5})\s*", str(point))
        if match is None or not numbers[-1] <= int(match[1]) <= num_layers:
            raise home.error(key, f"rising names such as layers.8, of {num_layers} layers")
        numbers.append(int(match[1]))
    numbers.append(num_layers)
    return [b - a for a, b in itertools.pairwise(numbers)] if points else []


def _sharding(root: Asked, found: ImportedSettings, given: Given) -> dict[str, Any]:
    shard = _degree(root, "data_parallel_shard_degree", "training", default=-1)
    whole = root.section("training").whole("data_parallel_degree", -1)
    copies = _degree(root, "data_parallel_replicate_degree", "training")
    if copies < 1:
        raise ParplanError(f"{root.where}: data_parallel_replicate_degree: got {copies}")
    kind = root.section("training").text("data_parallel_type", "fsdp")
    if kind not in ("fsdp", "ddp"):
        raise root.section("training").error("data_parallel_type", "fsdp or ddp")
    shard = whole if shard == -1 else shard
    own = found.plan["tensor_parallel"] * found.plan["context_parallel"] * found.plan["num_stages"]
    if shard == -1 and given.devices is not None:
        shard = max(1, given.devices // (own * copies))
    if shard > 0:
        found.devices = own * shard * copies
    if kind == "ddp":
        shard, copies = 1, shard * copies
    sharded = shard != 1 or found.plan["context_parallel"] > 1
    found.copies = copies if sharded else 1
    key = "fsdp_reshard_after_forward"
    policy = _home(root, key, "parallelism", "training").text(key, "default")
    if policy not in ("default", "always", "never"):
        raise ParplanError(f"{root.where}: {key}: default, always or never, got {policy!r}")
    again = policy == "always" or (policy == "default" and found.plan["num_stages"] == 1)
    stage = (3 if again else 2) if sharded else 0
    return {
        **zero_fields(stage),
        "gradient_dtype": "fp32",
        "overlap_parameter_gather": sharded,
    }


def _recomputation(root: Asked, found: ImportedSettings, num_layers: int) -> dict[str, Any]:
    again = root.section("activation_checkpoint")
    mode, option = again.text("mode", "selective"), again.text("selective_ac_option", "2")
    if mode == "none":
        return {}
    if mode == "full":
        return {"recomputation": "full"}
    if mode != "selective":
        found.misread(
            f"activation_checkpoint.mode {mode}",
            "nothing is taken to be recomputed; --set recomputation=full and the like",
        )
        return {}
    if option.isdigit() and int(option) > 0:
        stages = found.plan["num_stages"] * found.plan.get("virtual_stages", 1)
        count = round(num_layers / stages / int(option))
        found.note(f"selective_ac_option {option}", f"{count} whole layers of every stage")
        return {"recomputation": "full", "recomputed_layers": count}
    if option != "op":
        raise again.error("selective_ac_option", "op or a number of layers")
    found.note(
        f"activation_checkpoint {mode} {option}",
        "what is not saved is recomputed: every second product, and all of the experts",
    )
    return {"recomputation": "selective", "recomputed_ops": list(EVERY_SECOND_PRODUCT)}


def _batches(root: Asked, found: ImportedSettings, given: Given) -> None:
    """`batch_size` is what versions before 0.1 call `local_batch_size`."""
    training = root.section("training")
    old = training.whole("batch_size", 8, least=1)
    local = training.whole("local_batch_size", old, least=1)
    total = training.whole("global_batch_size", -1)
    found.plan["batch_per_device"] = given.micro_batch or _micro_batch(root, found, local)
    devices = given.devices or found.devices
    if total < 0 and devices is not None:
        own = found.plan["tensor_parallel"] * found.plan["context_parallel"]
        total = local * max(1, devices // (own * found.plan["num_stages"]))
    found.global_batch = total if total > 0 else None


def _micro_batch(root: Asked, found: ImportedSettings, local: int) -> int:
    """Sequences of one micro-batch. Before 2025 their number is that of the ranks if not said."""
    stages = found.plan["num_stages"]
    if stages == 1:
        return local
    key = "pipeline_parallel_microbatches"
    count = _home(root, key, "parallelism", EXPERIMENTAL).number(key, least=1)
    size = root.section("parallelism").number("pipeline_parallel_microbatch_size", least=1)
    old = "pipeline_parallel_degree" in root.section(EXPERIMENTAL)
    if count is None and (size is not None or not old):
        return size or 1
    count = count or stages
    if local % count:
        raise ParplanError(f"{root.where}: {local} sequences do not divide into {count} batches")
    return local // count
