"""Recomputation settings by name: levels, and sets of operations that frameworks offer."""

from functools import lru_cache

from parplan.errors import unknown_name
from parplan.sim.layers.blocks import block_ops
from parplan.sim.layers.shapes import shapes_of
from parplan.sim.plan import Plan, Recomputation
from parplan.sim.workload import Workload

ATTENTION = ("attention",)

BETWEEN_PRODUCTS = (
    *("attention norm", "rotary", "query and key norm"),
    *("mlp norm", "mlp activation", "experts activation"),
)
"""What lies between matrix products: MaxText's `minimal`, JAX's `save_dot` policies."""

EXPERTS = ("router", "dispatch", "experts up", "experts activation", "experts down", "combine")

EVERY_SECOND_PRODUCT = tuple(dict.fromkeys((*BETWEEN_PRODUCTS, "projection", "mlp gate", *EXPERTS)))
"""torchtitan's selective policy per operation: beside what lies between products, every second
product of a block (keys, projection, one of the two up matrices), of which keys are small; and all
of the experts, whose grouped products are not among what it saves (pytorch/torchtitan,
torchtitan/distributed/activation_checkpoint.py: mm, attention, reduce-scatter, all-to-all)."""

MODULES = {
    "mla_up_proj": ("query up", "kv up", "rotary"),
    "layernorm": ("attention norm", "mlp norm"),
    "moe_act": ("experts activation", "shared experts activation"),
    "mlp": ("mlp up", "mlp activation", "mlp down"),
    "moe": ("experts up", "experts activation", "experts down"),
    "core_attn": ATTENTION,
}
"""Operations of the modules that Megatron-LM names in `recompute_modules`."""

RECOMPUTED: dict[str, tuple[Recomputation, tuple[str, ...]]] = {
    "none": ("none", ATTENTION),
    "selective": ("selective", ATTENTION),
    "full": ("full", ATTENTION),
    "between products": ("selective", BETWEEN_PRODUCTS),
    "every second product": ("selective", EVERY_SECOND_PRODUCT),
    "latent projections": ("selective", MODULES["mla_up_proj"]),
    "latent projections, mlp": ("selective", (*MODULES["mla_up_proj"], *MODULES["mlp"])),
    "latent projections, mlp, experts": (
        "selective",
        (*MODULES["mla_up_proj"], *MODULES["mlp"], *MODULES["moe"]),
    ),
    "norms": ("selective", MODULES["layernorm"]),
    "norms, expert activations": ("selective", (*MODULES["layernorm"], *MODULES["moe_act"])),
    "mlp": ("selective", MODULES["mlp"]),
    "experts": ("selective", MODULES["moe"]),
}
"""By name, the level and the operations of a plan."""

_NAMES = {value: name for name, value in RECOMPUTED.items()}


def recomputed_by(name: str) -> tuple[Recomputation, tuple[str, ...]]:
    """The level and the operations with that name; raises `ParplanError` with near names."""
    if name not in RECOMPUTED:
        raise unknown_name("recomputation", name, RECOMPUTED)
    return RECOMPUTED[name]


def name_of(plan: Plan) -> str:
    """The name of what a plan recomputes; its operations where they have none."""
    level = plan.recomputation
    ops = plan.recomputed_ops if level == "selective" else ATTENTION
    return _NAMES.get((level, ops)) or ", ".join(ops)


def applicable(workload: Workload, names: tuple[str, ...]) -> tuple[str, ...]:
    """Those of which every block has an operation, each set of operations once."""
    found: dict[object, str] = {}
    kinds = _op_names(workload)
    for name in names:
        level, ops = recomputed_by(name)
        present = tuple(own & frozenset(ops) for own in kinds)
        if level != "selective":
            found.setdefault(level, name)
        elif all(present):
            found.setdefault(present, name)
    return tuple(found.values())


@lru_cache(maxsize=64)
def _op_names(workload: Workload) -> tuple[frozenset[str], ...]:
    """The names of the operations of every kind of block."""
    x = shapes_of(workload, Plan())
    kinds = dict.fromkeys(workload.model.layer_kinds)
    return tuple(frozenset(op.name for op in block_ops(x, kind)) for kind in kinds)
