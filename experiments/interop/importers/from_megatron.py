"""What a launch of Megatron-LM asks for. Defaults are those of its arguments (August 2026)."""

import difflib
import math
import re

from parplan.errors import ParplanError
from parplan.experiments.interop.importers.from_megatron_model import model_of, numbers_of
from parplan.experiments.interop.importers.imported import Given, ImportedSettings, report_unread
from parplan.experiments.interop.importers.megatron_deepspeed import stage_of_deepspeed
from parplan.experiments.interop.importers.megatron_programs import check_program
from parplan.experiments.interop.megatron_arguments import ARGUMENTS, NO_EFFECT
from parplan.experiments.interop.megatron_plan import SELECTIVE, WHOLE
from parplan.experiments.interop.shell.launch_text import Flags, processes, read_flags
from parplan.sim.models.model import Model
from parplan.sim.plan import zero_fields
from parplan.sim.software.habits import Software
from parplan.sim.software.presets import habits_like
from parplan.sim.workload import NARROW

MODULES = {
    "core_attn": ("attention",),
    "layernorm": ("attention norm", "mlp norm"),
    **WHOLE,
    "moe_act": ("experts activation",),
    "mla_up_proj": ("query up", "kv up"),
}
"""`--recompute-modules` and the operations of a block that they are; see also `SELECTIVE`."""

assert set(SELECTIVE.values()) <= set(MODULES)

MAX_LAYOUT = 10_000
"""Letters of a pipeline layout."""

NOT_MODELLED = {
    "--distribute-saved-activations": "saved activations are whole on every rank",
    "--cpu-offloading-num-layers": "activations stay on the device",
    "--delay-wgrad-compute": "weight gradients are computed with the others",
    "--moe-shared-expert-overlap": "shared experts run after the routed ones",
    "--moe-expert-capacity-factor": "no tokens are dropped",
    "--fp8-param-gather": "parameters are gathered in 16 bits",
    "--mtp-num-layers": "no layers for further tokens",
    "--defer-embedding-wgrad-compute": "gradients of the embedding are computed at once",
    "--microbatch-group-size-per-virtual-pipeline-stage": "groups are as many as there are stages",
    "--enable-cuda-graph": "launching is that of --software",
    "--external-cuda-graph": "launching is that of --software",
    "--use-nccl-ub": "collectives are those of the cluster's fabric",
    "--hierarchical-context-parallel-sizes": "context parallelism is a single ring",
    "--embed-layernorm": "no normalisation after the embedding",
    "--pp-partition-method": "layers are spread evenly over the stages",
    "--rope-type": "rotary positions without extension",
    "--softmax-type": "softmax without sinks",
}
"""What bears on the time or the memory of a step, and what is assumed instead."""


def from_megatron(text: str, where: str, given: Given) -> ImportedSettings:
    """The settings of a launch script, or of the arguments alone."""
    return megatron_settings(read_flags(text, where, given.variables), given)


def megatron_settings(flags: Flags, given: Given) -> ImportedSettings:
    """The settings of arguments, from wherever they were read."""
    where = flags.where
    found = ImportedSettings()
    _refuse_other_files(flags)
    _rename(flags, found)
    check_program(flags, found)
    found.devices = processes(flags)
    found.seq_len = flags.number("--seq-length", "--encoder-seq-length")
    found.global_batch = flags.number("--global-batch-size")
    found.software = "megatron"
    found.workload = numbers_of(flags, found)
    found.workload["software"] = _software(flags, found)
    tensor = flags.number("--tensor-model-parallel-size") or 1
    found.model = given.model or model_of(flags, found, given.vocab_size, tensor)
    found.plan = {
        "tensor_parallel": tensor,
        "sequence_parallel": flags.has("--sequence-parallel") and tensor > 1,
        "context_parallel": _context_parallel(flags, found),
        "expert_parallel": flags.number("--expert-model-parallel-size") or 1,
        "batch_per_device": flags.number("--micro-batch-size") or given.micro_batch or 1,
    }
    own = flags.number("--expert-tensor-parallel-size")
    if own is not None and own != tensor:
        found.plan["expert_tensor_parallel"] = own
    found.plan |= _pipeline(flags, found, found.model, where)
    steps = flags.number("--gas")
    if steps is not None and found.global_batch is None and given.devices is not None:
        sizes = ("tensor_parallel", "context_parallel", "num_stages")
        own = math.prod(found.plan[name] for name in sizes)
        found.global_batch = max(1, given.devices // own) * steps * found.plan["batch_per_device"]
    found.plan |= _recomputation(flags, found)
    found.plan |= _sharding(flags, found)
    found.plan |= _overlap(flags, found)
    _say_the_rest(flags, found)
    return found


def _context_parallel(flags: Flags, found: ImportedSettings) -> int:
    """The ranks of a sequence, by rings or, in Megatron-DeepSpeed, by exchanges of heads."""
    ulysses = flags.number("--ds-sequence-parallel-size") or 1
    if ulysses > 1:
        found.note("--ds-sequence-parallel-size", "taken as context parallelism by a ring")
    return max(ulysses, flags.number("--context-parallel-size") or 1)


def _software(flags: Flags, found: ImportedSettings) -> Software:
    backend = flags.text("--moe-flex-dispatcher-backend")
    once = flags.has("--moe-enable-deepep") or backend in ("deepep", "hybridep")
    graphs = flags.text("--cuda-graph-impl")
    whole = "full_iteration" in (graphs, *flags.texts("--cuda-graph-scope"))
    if graphs not in (None, "none") and not whole:
        found.note(f"--cuda-graph-impl {graphs}", "launching is that of --software")
    return habits_like(
        "megatron",
        fused_gradient_accumulation=not flags.has("--no-gradient-accumulation-fusion"),
        expert_dispatch="nodes" if once else "copies",
        overlap_expert_exchange=flags.has("--overlap-moe-expert-parallel-comm"),
        step_graph=whole and graphs != "none",
    )


def _pipeline(flags: Flags, found: ImportedSettings, model: Model, where: str) -> dict[str, object]:
    stages = flags.number("--pipeline-model-parallel-size") or 1
    layout = flags.text("--pipeline-model-parallel-layout")
    each = flags.number("--num-layers-per-virtual-pipeline-stage")
    virtual = flags.number("--num-virtual-stages-per-pipeline-rank") or 1
    zero_bubble = flags.has("--enable-zero-bubble", "--enable-zbh1-pipeline")
    in_v = flags.has("--zero-bubble-v-schedule")
    ends = [
        int(flags.has(f"--account-for-{end}-in-pipeline-split")) for end in ("embedding", "loss")
    ]
    if each is not None:
        virtual = (model.num_layers + sum(ends)) // stages // each
    if zero_bubble and not in_v:
        found.note("--enable-zero-bubble", "taken as zb-h1, interleaved-zb with virtual stages")
    if in_v and stages > 1:
        virtual = 2
    layers = None
    if layout is not None:
        layers = layers_of_layout(layout, where)
        virtual = max(1, len(layers) // stages)
    elif any(ends) and stages > 1:
        layers = _accounted(model.num_layers, stages * virtual, ends)
    elif stages > 1:
        first = flags.number("--decoder-first-pipeline-num-layers")
        last = flags.number("--decoder-last-pipeline-num-layers")
        layers = _ends(model.num_layers, stages, virtual, first, last, where)
    if stages == 1 and virtual > 1:
        raise ParplanError(f"{where}: virtual stages need --pipeline-model-parallel-size above 1")
    return {
        "num_stages": stages,
        "virtual_stages": max(1, virtual),
        "schedule": _schedule(virtual, zero_bubble=zero_bubble or in_v, in_v=in_v),
        "stage_layers": layers,
    }


def _schedule(virtual: int, *, zero_bubble: bool, in_v: bool) -> str:
    if zero_bubble and in_v:
        return "zb-v"
    if zero_bubble:
        return "zb-h1" if virtual <= 1 else "interleaved-zb"
    return "interleaved-1f1b" if virtual > 1 else "1f1b"


def layers_of_layout(layout: str, where: str) -> tuple[int, ...]:
    """Decoder layers of each stage of `Et*3|(t|)*2,m|L`; raises `ParplanError` for other text."""
    text = layout.replace(",", "").replace(" ", "")
    while match := re.search(r"\(([^()]*)\)\*(\d{1,4})|([Etm|L])\*(\d{1,4})", text):
        times = int(match[2] or match[4])
        text = text[: match.start()] + (match[1] or match[3]) * times + text[match.end() :]
        if len(text) > MAX_LAYOUT:
            break
    if re.search(r"[^EtmL|]", text) or len(text) > MAX_LAYOUT:
        raise ParplanError(f"{where}: --pipeline-model-parallel-layout: cannot be read: {layout!r}")
    return tuple(stage.count("t") for stage in text.split("|"))


def _accounted(num_layers: int, stages: int, ends: list[int]) -> tuple[int, ...]:
    layers = [(num_layers + sum(ends)) // stages] * stages
    layers[0] -= ends[0]
    layers[-1] -= ends[1]
    return tuple(layers)


def _ends(
    num_layers: int, stages: int, virtual: int, first: int | None, last: int | None, where: str
) -> tuple[int, ...] | None:
    """Layers of each stage where the first or the last rank has a number of its own."""
    if first is None and last is None:
        return None
    inner = num_layers - (first or 0) - (last or 0)
    ranks = stages - (first is not None) - (last is not None)
    if ranks < 1 or inner % ranks or any((n or 0) % virtual for n in (first, last)):
        raise ParplanError(f"{where}: {inner} layers do not divide over {ranks} middle stages")
    own = [first] if first is not None else []
    own += [inner // ranks] * ranks
    own += [last] if last is not None else []
    return tuple(count // virtual for _ in range(virtual) for count in own)


def _recomputation(flags: Flags, found: ImportedSettings) -> dict[str, object]:
    kind = flags.text("--recompute-granularity")
    if flags.has("--recompute-activations") and kind is None:
        kind = "selective"
    modules = flags.texts("--recompute-modules") or ["core_attn"]
    method, count = flags.text("--recompute-method"), flags.number("--recompute-num-layers")
    if kind is None:
        return {}
    if kind not in ("full", "selective"):
        raise ParplanError(
            f"{flags.where}: --recompute-granularity: full or selective, got {kind!r}"
        )
    if kind == "full":
        if method not in (None, "uniform", "block"):
            found.misread(f"--recompute-method {method}", "all layers are taken to be recomputed")
        if method == "uniform" and (count or 1) > 1:
            found.note(
                f"--recompute-num-layers {count}", "uniform: one layer is recomputed at a time"
            )
        layers = count if method == "block" else None
        return {"recomputation": "full", "recomputed_layers": layers}
    ops: list[str] = []
    for module in modules:
        if module in MODULES:
            ops += MODULES[module]
        else:
            found.note(f"--recompute-modules {module}", "not recomputed")
    return {"recomputation": "selective", "recomputed_ops": ops}


def _sharding(flags: Flags, found: ImportedSettings) -> dict[str, object]:
    optimizer = flags.has("--use-distributed-optimizer", "--overlapped-distributed-optimizer")
    strategy = flags.text("--data-parallel-sharding-strategy") or _usual_strategy(flags, found)
    copies = flags.number("--num-distributed-optimizer-instances") or 1
    asked = flags.number("--zero-stage")
    stage = int(optimizer) if asked is None else asked
    if flags.has("--deepspeed"):
        stage = stage_of_deepspeed(flags, asked, found)
        pipelines = found.plan["num_stages"] > 1 and not flags.has("--no-pipeline-parallel")
        if stage == 0 and pipelines and found.workload["precision"] == "bf16":
            # runtime/bf16_optimizer.py of DeepSpeed, which its engine takes for pipelines in bf16.
            found.note("--bf16", "DeepSpeed splits the optimizer's state of pipelines, as ZeRO-1")
            stage = 1
    if stage not in range(4):
        raise ParplanError(f"{flags.where}: --zero-stage: 0 to 3, got {stage}")
    if flags.has("--use-megatron-fsdp", "--use-custom-fsdp"):
        known = ("no_shard", "optim", "optim_grads", "optim_grads_params")
        if strategy not in known:
            raise ParplanError(
                f"{flags.where}: --data-parallel-sharding-strategy: {strategy!r} is not one of "
                f"{', '.join(known)}"
            )
        stage = known.index(strategy)
    elif flags.has("--use-torch-fsdp2"):
        stage = 2 if flags.has("--torch-fsdp2-no-reshard-after-forward") else 3
    found.copies = copies if stage else 1
    return dict(zero_fields(stage))


def _usual_strategy(flags: Flags, found: ImportedSettings) -> str:
    """What Megatron's own FSDP shards where nothing is said, which releases differ in."""
    usual = "no_shard" if "--use-custom-fsdp" in flags.words else "optim_grads_params"
    if flags.has("--use-megatron-fsdp", "--use-custom-fsdp"):
        found.note("--data-parallel-sharding-strategy", f"not said: {usual}, the default, is taken")
    return usual


def _overlap(flags: Flags, found: ImportedSettings) -> dict[str, object]:
    in_bf16 = flags.has("--grad-reduce-in-bf16")
    asked = flags.has("--accumulate-allreduce-grads-in-fp32")
    precision = found.workload["precision"]
    fp32 = asked or (precision in ("bf16", *NARROW) and not in_bf16)
    offload = flags.has("--optimizer-cpu-offload")
    both = flags.has("--overlapped-distributed-optimizer")
    fine = flags.has("--fine-grained-activation-offloading")
    if fine:
        modules = " ".join(flags.texts("--offload-modules"))
        found.note(f"--offload-modules {modules}", "all that blocks keep is offloaded")
    return {
        "gradient_dtype": "fp32" if fp32 else "as computed",
        "overlap_gradient_reduction": flags.has("--overlap-grad-reduce") or both,
        "overlap_parameter_gather": flags.has("--overlap-param-gather") or both,
        "overlap_tensor_parallel": flags.has("--tp-comm-overlap")
        and found.plan["tensor_parallel"] > 1,
        "offload_optimizer": offload,
        "offload_activations": fine,
    }


def _say_the_rest(flags: Flags, found: ImportedSettings) -> None:
    """No effect, not modelled, or not known: one of these for every flag that was not used."""
    for note in flags.notes:
        found.misread(*note.split(": ", 1))
    for word in flags.unclear:
        _say_unclear(word, flags, found)
    others = flags.others()
    for name in others:
        if name in NOT_MODELLED:
            found.misread(name, f"not modelled: {NOT_MODELLED[name]}")
    rest = [name for name in others if name not in NOT_MODELLED]
    listed = [name for name in rest if name in ARGUMENTS and name not in NO_EFFECT]
    for name in listed:
        found.misread(name, "not modelled here")
    report_unread(found, [name for name in rest if name not in listed], (), NO_EFFECT)
    for name in [name for name in rest if name in found.not_understood and name not in listed]:
        near = difflib.get_close_matches(name, [*ARGUMENTS, *flags.used], n=1, cutoff=0.75)
        if near:
            del found.not_understood[name]
            found.notes = [note for note in found.notes if not note.startswith(f"{name}: ")]
            found.misread(name, f"no such argument is known; did you mean {near[0]}?")


def _say_unclear(word: str, flags: Flags, found: ImportedSettings) -> None:
    """Words in a place of flags: an unset variable, or one that depends on a branch.

    Raises `ParplanError` where the branches differ in what bears on the prediction.
    """
    for unknown in flags.unknowns.within(word):
        names = {w.partition("=")[0].replace("_", "-") for a in unknown.alternatives for w in a}
        bearing = [name for name in names if name.startswith("--") and name not in NO_EFFECT]
        if bearing:
            raise ParplanError(f"{flags.where}: {', '.join(sorted(bearing)[:4])}: {unknown.why}")
        if unknown.alternatives:
            found.no_effect[unknown.why.partition(" ")[0]] = "its branches differ in such flags"
        else:
            name = f"${unknown.variable}" if unknown.variable else unknown.why.partition(" is ")[0]
            name = name.partition(" depends ")[0]
            found.misread(name, f"{unknown.why}; taken as empty")


def _refuse_other_files(flags: Flags) -> None:
    known = [name for name in flags.words if name in ARGUMENTS or name in EARLIER]
    if not known:
        raise ParplanError(f"{flags.where}: nothing in it is an argument of Megatron-LM")


SHORTEST = 8
"""Letters of a shortened argument; shorter ones are rather those of a fork."""

EARLIER = {
    "--model-parallel-size": "--tensor-model-parallel-size",
    "--batch-size": "--micro-batch-size",
    "--moe-expert-parallel-size": "--expert-model-parallel-size",
    "--cpu-optimizer": "--optimizer-cpu-offload",
    "--topk": "--moe-router-topk",
    "--activations-checkpoint-method": "--recompute-method",
    "--activations-checkpoint-num-layers": "--recompute-num-layers",
    "--activations-checkpoint-granularity": "--recompute-granularity",
    "--geglu": "--quick-geglu",
    "--pipe-parallel-size": "--pipeline-model-parallel-size",
}
"""Names of Megatron-DeepSpeed and of releases before core 0.4, and what they became."""


def _rename(flags: Flags, found: ImportedSettings) -> None:
    """Give arguments of other releases, and shortened ones, their present names.

    The present name goes first. A begin that only one argument has is that argument to argparse.
    """
    for name in [name for name in flags.words if name not in ARGUMENTS and name not in EARLIER]:
        whole = [one for one in (*ARGUMENTS, *EARLIER) if one.startswith(name)]
        if len(whole) == 1 and whole[0] not in flags.words and len(name) >= SHORTEST:
            flags.words[whole[0]] = flags.words.pop(name)
            found.note(name, f"taken as {whole[0]}, which it shortens")
    checkpoints = ("--checkpoint-activations", "--deepspeed-activation-checkpointing")
    method = flags.words.get("--activations-checkpoint-method")
    for old, new in EARLIER.items():
        if old in flags.words:
            flags.words.setdefault(new, flags.words[old])
            flags.has(old)
    if flags.has(*checkpoints) or method:
        flags.words.setdefault("--recompute-granularity", ["full"])
        flags.words.setdefault("--recompute-method", ["uniform"])
