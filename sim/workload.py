"""Workloads: model, sequence length, global batch and number formats."""

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from parplan._checked import checked
from parplan._strict import build
from parplan.errors import ParplanError
from parplan.sim.models.find import find_model
from parplan.sim.models.model import Model
from parplan.sim.models.parts import MOST_SIZE, is_local
from parplan.sim.software import presets
from parplan.sim.software.framework import (
    Framework,
    constants_of,
    default_framework,
    part_of_software,
)
from parplan.sim.software.habits import MEGATRON, Software

Precision = Literal["bf16", "fp16", "fp32", "fp8", "fp4"]

OptimizerName = Literal["adamw", "adamw-bf16", "adamw-8bit", "muon", "sgd"]

NARROW = ("fp8", "fp4")
"""Precisions of products alone: everything else is as in bf16."""
AttentionKind = Literal["flash", "flash-2", "flash-1", "flash-triton", "unfused", "eager"]


if TYPE_CHECKING:
    from parplan._checked import Given


def _software_not_named(given: Mapping[str, object]) -> Mapping[str, object]:
    described = "software" in given or "framework" in given
    return {} if described else presets.default_fields()


@checked(
    coerce={"model": find_model, "framework": constants_of},
    named={"software": presets.workload_fields},
    default=_software_not_named,
)
@dataclass(frozen=True, slots=True)
class Workload:
    """One training step: `global_batch` sequences of `seq_len` tokens through `model`.

    Models may be given by name, as a TOML file or a `config.json` as well. Software by name
    (`software="deepspeed"`) sets what is not given of attention, fusion, dropout and constants,
    too; `parplan.sim.software.presets` has the names. Where none is given it is plain PyTorch.

    Raises `ParplanError` for what does not exist or has another type.
    """

    if TYPE_CHECKING:
        model: Given[Model, str | Path] = Given()
    else:
        model: Model
    _: KW_ONLY
    seq_len: int
    global_batch: int
    precision: Precision = "bf16"
    """bf16 and fp16: mixed precision with fp32 master parameters. fp32: everything in fp32.
    fp8, fp4: as bf16, with the products of the blocks' linear layers in 8 or 4 bits."""
    tf32: bool = False
    """Whether matrix products of fp32 values are computed at the rate of tf32."""
    optimizer: OptimizerName = "adamw"
    """adamw-bf16, -8bit: with both moments in so many bits. muon: of the matrices of blocks, adamw
    of the rest. sgd: without momentum."""
    attention: AttentionKind = "flash"
    """flash-2: FlashAttention-2's kernels, which leave unused what Hopper and later ones add.
    flash-1, flash-triton: the first version of them, in CUDA or in Triton.
    unfused: writes the seq_len x seq_len scores of every head; scales, masks and softmaxes them in
    one kernel. eager: takes a kernel for each."""
    fused_norms: bool = True
    """Whether a normalisation is one kernel, or a chain of elementwise ones in fp32."""
    fused_elementwise: bool = True
    """The same of rotary positions and gated activation functions."""
    fused_loss: bool = True
    """Whether the loss works on one copy of the logits, or as kernels with a copy each."""
    dropout: bool = False
    """Whether attention, projections and MLPs end in dropout, whose masks are kept."""
    expert_load: float = 1.0
    """Tokens of the rank whose experts get most, over those of the mean rank."""

    lora_rank: int = 0
    """Of low-rank adapters beside frozen weights (Hu et al. 2021, arXiv:2106.09685), on the query,
    key, value and output projections; 0: all weights are trained."""
    if TYPE_CHECKING:
        framework: Given[Framework, Framework] = Given()
    else:
        framework: Framework = field(default_factory=default_framework)
    """The constants of its software, which a name of software sets. Given without one, nothing of
    the software follows from a name: other fields have the defaults that are written here. Where
    neither is given they follow from the cluster (`framework_on`)."""
    if TYPE_CHECKING:
        software: Given[Software, str] = Given()
    else:
        software: Software = MEGATRON
    """What it does beside the plan."""

    def __post_init__(self) -> None:
        if self.lora_rank < 0:
            raise ParplanError(f"lora_rank: must not be negative, got {self.lora_rank}")
        if self.tf32 and self.precision != "fp32":
            raise ParplanError(f"tf32: needs precision fp32, got {self.precision}")
        if self.expert_load < 1:
            raise ParplanError(f"expert_load: must be at least 1, got {self.expert_load}")
        for name in ("seq_len", "global_batch"):
            if getattr(self, name) < 1:
                raise ParplanError(f"{name}: must be at least 1, got {getattr(self, name)}")
            if getattr(self, name) > MOST_SIZE:
                raise ParplanError(
                    f"{name}: must be at most {MOST_SIZE}, got {getattr(self, name)}"
                )
        if 0 < self.model.learned_positions < self.seq_len:
            raise ParplanError(
                f"seq_len: {self.model.name} has {self.model.learned_positions} positions, "
                f"got {self.seq_len}"
            )

    @property
    def bytes_per_value(self) -> int:
        """Bytes of one parameter or activation as it is computed with."""
        return 4 if self.precision == "fp32" else 2

    @property
    def product_dtype(self) -> str:
        """The data type whose peak rate matrix products of the blocks have."""
        return "tf32" if self.tf32 else self.precision

    @property
    def tokens(self) -> int:
        """Tokens of one step."""
        return self.seq_len * self.global_batch

    @property
    def model_flops(self) -> float:
        """FLOPs that the model itself needs in a step, without recomputation.

        6 per matrix parameter that the token meets (4 where weights are frozen), and 12 L h s per
        token for the full (not halved) attention matrix: Narayanan et al. 2021, arXiv:2104.04473,
        Appendix. Of layers with a window, its band of that matrix.
        """
        return self._flops(attention_share=1.0)

    @property
    def causal_flops(self) -> float:
        """As `model_flops`, with the half of the attention matrix that a causal mask leaves."""
        return self._flops(attention_share=0.5)

    def _flops(self, attention_share: float) -> float:
        m = self.model
        matrices = sum(m.active_matrix_parameters(kind) for kind in m.layer_kinds)
        matrices += m.vocab_size * m.hidden_size
        value_size = m.mla.value_size if m.mla is not None else m.head_size
        attention = self._attended_keys * m.num_heads * (m.head_size + value_size)
        each = 4.0 if self.lora_rank else 6.0
        return self.tokens * (each * matrices + 6.0 * attention_share * attention)

    @property
    def _attended_keys(self) -> float:
        """Keys per token, summed over the layers and not halved for the causal mask."""
        m, keys = self.model, 0.0
        for kind in m.layer_kinds:
            seen = self.seq_len
            if m.local is not None and is_local(kind):
                seen = min(m.local.window, seen)
            keys += seen * (2 - seen / self.seq_len)
        return keys


def with_software(workload: Workload, name: str) -> Workload:
    """`workload` as the software of that name trains it; raises `ParplanError` with near names."""
    return replace(workload, **presets.workload_fields(name))


def software_of(workload: Workload) -> str:
    """The name of the software of `workload`, or "custom"."""
    switches = (*presets.WORKLOAD_SWITCHES, "software")
    return presets.name_of({name: getattr(workload, name) for name in switches})


def workload_of_table(table: object, where: str) -> Workload:
    """The workload of a table; its `software` may be a name, and is plain PyTorch if left out.

    Raises `ParplanError` that begins with `where`, for what `build` refuses and an unknown name.
    """
    if isinstance(table, Mapping) and isinstance(old := table.get("framework"), str):
        said = part_of_software(old, lambda name: f'"software": "{name}"')
        raise ParplanError(f"{where}.framework: {said}")
    if isinstance(table, Mapping) and isinstance(name := table.get("software"), str):
        try:
            meant = presets.workload_table(name)
        except ParplanError as error:
            raise ParplanError(f"{where}.software: {error}") from None
        table = {**meant, **table, "software": meant["software"]}
    return build(Workload, table, where)
