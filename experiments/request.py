"""The arguments that several commands share: what is trained, on what machine."""

import argparse
from pathlib import Path
from typing import get_args

from parplan.hardware.cluster import Cluster
from parplan.hardware.errors import ParplanError
from parplan.hardware.presets import cluster_preset, read_cluster
from parplan.sim.model import Model, model_preset, model_presets
from parplan.sim.workload import Attention, Workload


def add_workload_arguments(parser: argparse.ArgumentParser) -> None:
    """MODEL, --cluster, --seq-len, --global-batch and what refines them."""
    parser.add_argument(
        "model", help="a model such as llama2-13b, or a TOML file with the table of one"
    )
    parser.add_argument(
        "--cluster",
        required=True,
        help="a cluster such as 4xLarge.2048GB or 64xh100, or a TOML file with the table of one",
    )
    parser.add_argument("--seq-len", type=int, required=True, help="tokens of a sequence")
    parser.add_argument(
        "--global-batch",
        required=True,
        help="sequences of a step; several, as in 256,1, when the batch varies",
    )
    parser.add_argument(
        "--no-mixed-precision", action="store_true", help="fp32 instead of bf16 with fp32 masters"
    )
    parser.add_argument(
        "--attention", choices=get_args(Attention), default="flash", help="attention kernel"
    )


def requested_cluster(name: str) -> Cluster:
    """The cluster that `--cluster` names."""
    return read_cluster(Path(name)) if name.endswith(".toml") else cluster_preset(name)


def requested_model(name: str) -> Model:
    """The model that MODEL names."""
    if not name.endswith(".toml"):
        return model_preset(name)
    models = list(model_presets(Path(name)).values())
    if len(models) != 1:
        raise ParplanError(f"{name}: expected the table of one model, got {len(models)}")
    return models[0]


def requested_workload(args: argparse.Namespace, global_batch: int) -> Workload:
    """The workload that the arguments describe."""
    return Workload(
        model=requested_model(args.model),
        seq_len=args.seq_len,
        global_batch=global_batch,
        precision="fp32" if args.no_mixed_precision else "bf16",
        attention=args.attention,
    )


def batches(text: str) -> list[int]:
    """The batch sizes of `--global-batch`."""
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise ParplanError(
            f"--global-batch: expected a number, or several as in 256,1; got {text!r}"
        ) from None
