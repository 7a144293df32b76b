"""What the software that trains costs beside its kernels: launching them, waiting, one-off work.

The constants are fitted to published runs whose use for that is allowed
(`parplan validate --fit-frameworks`); `frameworks.toml` says for each table to which.
"""

from dataclasses import dataclass, replace
from pathlib import Path

from parplan.hardware.errors import ParplanError, unknown_name
from parplan.hardware.strict import build, read_toml

NOT_NEGATIVE = (
    "host_s_per_kernel",
    "host_s_per_exchange",
    "backward_host_share",
    "message_s",
    "step_s",
    "expert_layer_s",
)

FRAMEWORKS = Path(__file__).parent / "frameworks.toml"


@dataclass(frozen=True, slots=True, kw_only=True)
class Framework:
    """Constants of one generation of training software."""

    name: str
    host_s_per_kernel: float
    """What the host needs to launch a kernel of the forward; a faster device waits."""
    host_s_per_exchange: float
    """The same for a collective within a layer."""
    backward_host_share: float
    """The same of a kernel of the backward, over that of the forward."""
    message_s: float
    """Added to every forward and backward that gets or sends a message between stages."""
    step_s: float
    """Once per step: data, scaling of the loss, logging."""
    kernel_slowdown: float
    """Time of a kernel within a training step over its time when measured alone: clocks are lower
    and caches are cold."""
    expert_layer_s: float
    """Added to the forward and to the backward of a layer with experts: the host waits to learn
    how many tokens each expert gets."""
    hidden_share: float
    """How much of an exchange that overlaps with kernels costs nothing: the rest slows them."""
    overlapped_share: float
    """The same where a plan asks for overlap in the forward too (`overlap_tensor_parallel`), by
    products that are cut so that their exchange goes along."""
    source: str
    reduces_pipelines_once: bool = False
    """Whether a pipeline adds up whole gradients over all its micro-batches and reduces them once,
    also where they are sharded (ZeRO-2 and -3), as torch.distributed.pipelining does; else every
    backward of such a plan is followed by a reduction, and only shards are kept."""

    def __post_init__(self) -> None:
        for name in NOT_NEGATIVE:
            if getattr(self, name) < 0:
                raise ParplanError(f"{name}: must not be negative, got {getattr(self, name)}")
        if self.kernel_slowdown <= 0:
            raise ParplanError(f"kernel_slowdown: must be positive, got {self.kernel_slowdown}")
        for name in ("hidden_share", "overlapped_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ParplanError(f"{name}: must be in [0, 1], got {getattr(self, name)}")


NO_OVERHEAD = Framework(
    name="none",
    host_s_per_kernel=0.0,
    host_s_per_exchange=0.0,
    backward_host_share=1.0,
    message_s=0.0,
    step_s=0.0,
    kernel_slowdown=1.0,
    expert_layer_s=0.0,
    hidden_share=1.0,
    overlapped_share=1.0,
    source="assumed: a host that is never late, and perfect overlap",
)

TORCH_PIPELINING = replace(
    NO_OVERHEAD,
    name="torch-pipelining",
    reduces_pipelines_once=True,
    source="torch 2.13, torch/distributed/pipelining/schedules.py: one REDUCE_GRAD per stage "
    "and step, after its last backward; overheads as in none",
)
"""What `parplan.backend` executes pipelines by."""

BUILT_IN = {each.name: each for each in (NO_OVERHEAD, TORCH_PIPELINING)}


def framework(name: str, path: Path = FRAMEWORKS) -> Framework:
    """The constants called `name`, built in or of `path`; `ParplanError` suggests near names."""
    if name in BUILT_IN:
        return BUILT_IN[name]
    tables = read_toml(path)
    if name not in tables:
        raise unknown_name("framework", name, [*tables, *BUILT_IN])
    table = tables[name]
    if not isinstance(table, dict):
        raise ParplanError(f"{path}: {name}: expected a table, got {table!r}")
    return build(Framework, {"name": name, **table}, f"{path}: {name}")
