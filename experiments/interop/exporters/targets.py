"""Export targets by name."""

from parplan.experiments.interop.exporters.exported import Exporter
from parplan.experiments.interop.exporters.to_accelerate import to_accelerate
from parplan.experiments.interop.exporters.to_deepspeed import to_deepspeed
from parplan.experiments.interop.exporters.to_megatron import to_megatron, to_megatron_bridge
from parplan.experiments.interop.exporters.to_torchtitan import to_torchtitan
from parplan.experiments.interop.exporters.to_transformers import to_transformers

TARGETS: dict[str, Exporter] = {
    "megatron": to_megatron,
    "megatron-bridge": to_megatron_bridge,
    "deepspeed": to_deepspeed,
    "torchtitan": to_torchtitan,
    "accelerate": to_accelerate,
    "transformers": to_transformers,
}
