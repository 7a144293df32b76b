"""The arguments that several commands share: what is trained, on what machine."""

import argparse
import importlib.util
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

from parplan.errors import ParplanError, unknown_name
from parplan.experiments.arguments.numbers import count
from parplan.experiments.cases.own.machine_factors import (
    MachineFactors,
    setting_named,
    with_factors,
)
from parplan.hardware.machines.presets import cluster_preset, read_cluster
from parplan.hardware.machines.unit_check import unit_warnings
from parplan.hardware.network.cluster import Cluster
from parplan.planners.spaces.constraints import read_job
from parplan.sim.models.find import find_model
from parplan.sim.software.framework import default_framework, framework_on
from parplan.sim.software.presets import DEFAULT_SOFTWARE, default_fields
from parplan.sim.software.presets import names as software_names
from parplan.sim.workload import (
    AttentionKind,
    OptimizerName,
    Precision,
    Workload,
    with_software,
)

HERE = "here"
"""The cluster that is the machine of `PROFILE`."""

PROFILE = "profile.json"

SAME_PRECISION: dict[str, Precision] = {"nvfp4": "fp4"}
"""Other names of precisions."""


def add_workload_arguments(parser: argparse.ArgumentParser) -> None:
    """MODEL, --cluster, --seq-len, --global-batch and what refines them."""
    parser.add_argument(
        "model",
        help="a preset such as llama2-13b, a TOML file with a model table, or the config.json of a "
        "Hugging Face model",
    )
    add_workload_options(parser)


def add_workload_options(parser: argparse.ArgumentParser, *, required: bool = True) -> None:
    """The same without MODEL. `required`: whether sequence length and batch have to be given."""
    parser.add_argument(
        "--cluster",
        help="a preset such as 4xLarge.2048GB, a number of accelerators such as 64xh100, a TOML "
        "file with a cluster table, or here (the machine of profile.json)",
    )
    parser.add_argument(
        "--profile",
        metavar="FILE",
        help="instead of --cluster: a machine measured by parplan calibrate (profile.json)",
    )
    parser.add_argument(
        "--seq-len",
        type=count,
        required=required,
        help="sequence length in tokens, such as 8192 or 8k",
    )
    parser.add_argument(
        "--global-batch",
        required=required,
        help="sequences per training step, such as 512 or 2k; several such as 256,1 if it varies",
    )
    parser.add_argument(
        "--precision",
        choices=(*get_args(Precision), *SAME_PRECISION),
        help="bf16 (default) and fp16: mixed, with fp32 master weights; fp8, fp4 (nvfp4): as bf16, "
        "with the products of linear layers in 8 or 4 bits; fp32",
    )
    parser.add_argument(
        "--no-mixed-precision", action="store_true", help="the same as --precision fp32"
    )
    parser.add_argument(
        "--optimizer",
        choices=get_args(OptimizerName),
        help="the optimizer (default adamw); adamw-bf16, adamw-8bit: with both moments in so "
        "many bits; muon: for the matrices of blocks",
    )
    parser.add_argument(
        "--tf32",
        action="store_true",
        help="with --no-mixed-precision: compute matrix products in tf32",
    )
    parser.add_argument(
        "--attention",
        choices=get_args(AttentionKind),
        help="attention kernel (default: that of --software)",
    )
    add_software_argument(parser)


def add_software_argument(parser: argparse.ArgumentParser) -> None:
    """--software, of every command that takes a workload."""
    parser.add_argument(
        "--software",
        metavar="NAME",
        help="the software that trains, which sets kernels, fusion, overlap and overheads: "
        f"{', '.join(software_names())}, or FILE.toml:NAME as written by parplan validate --fit "
        f"(default {DEFAULT_SOFTWARE}, which on a machine of --profile has no overheads)",
    )


def requested_cluster(
    name: str | None, profile: str | None = None, software: str | None = None
) -> Cluster:
    """The cluster that `--cluster` names, or the machine of `--profile`.

    With the factors that `--software FILE.toml:NAME` has for it. Raises `ParplanError` unless
    exactly one is given.
    """
    cluster = _cluster(name, profile)
    factors = setting_named(software).machine if software else MachineFactors()
    return with_factors(cluster, factors)


def _cluster(name: str | None, profile: str | None) -> Cluster:
    """The same, as it is described.

    Rates that look as if they were in another unit are warned about on stderr. Raises
    `ParplanError` unless exactly one is given.
    """
    if profile is not None:
        if name not in (None, HERE):
            raise ParplanError(f"--profile {profile}: is the cluster; leave out --cluster {name}")
        name = profile
    elif name is None:
        raise ParplanError("--cluster or --profile: one of them is needed")
    elif name == HERE:
        name = PROFILE
        if not Path(name).exists():
            raise ParplanError(f"--cluster here: there is no {PROFILE}; parplan calibrate makes it")
        _check_here(Path(name))
    if name.endswith(".toml"):
        cluster = read_cluster(Path(name))
    elif name.endswith(".json"):
        cluster = _measured_cluster(Path(name))
    else:
        return cluster_preset(name)
    for warning in unit_warnings(cluster):
        sys.stderr.write(f"parplan: warning: {name}: {warning}\n")
    return cluster


def _check_here(path: Path) -> None:
    """Warn where the machine was set up differently when it was measured.

    Raises `ParplanError` for the profile of another machine, or where torch is missing, without
    which this one can't be told.
    """
    if importlib.util.find_spec("torch") is None:
        raise ParplanError(
            "--cluster here: needs torch to tell this machine: pip install 'parplan[torch]', or "
            f"--profile {path} for whatever machine it is of"
        )
    from parplan.backend.calibration.this_machine import machine_here, num_cores
    from parplan.hardware.estimates.profile_file import check_machine, read_profile

    profile = read_profile(path)
    count = profile.machine.num_processes
    if count > num_cores():
        raise ParplanError(f"{path}: machine.num_processes: {count}, more than the cores here")
    for warning in check_machine(profile, machine_here(count), str(path)):
        sys.stderr.write(f"parplan: warning: {warning}\n")


def _measured_cluster(path: Path) -> Cluster:
    # Imported here: look-ups need scipy, which takes long to load.
    from parplan.hardware.estimates.profile_file import read_profile
    from parplan.hardware.machines.from_profile import cluster_of_profile

    return cluster_of_profile(read_profile(path), str(path))


def job_of_space(space: str | Path | None) -> dict[str, str]:
    """What a file of constraints says of the job; of a space by name, nothing.

    Raises `ParplanError` for a value that does not exist, with near names.
    """
    if space is None or not str(space).endswith(".toml"):
        return {}
    found = read_job(Path(space))
    known = {
        "precision": (*get_args(Precision), *SAME_PRECISION),
        "optimizer": get_args(OptimizerName),
        "software": software_names(),
    }
    for key, value in found.items():
        if value not in known[key]:
            raise ParplanError(f"{space}.{key}: {unknown_name(key, value, known[key])}")
    return found


def check_job_of_space(space: str | Path | None, workload: Workload) -> None:
    """Raise `ParplanError` where a file of constraints says another thing than `workload`."""
    for key, value in job_of_space(space).items():
        if key == "software":
            differs = with_software(workload, value) != workload
        else:
            differs = getattr(workload, key) != SAME_PRECISION.get(value, value)
        if differs:
            raise ParplanError(f"{space}: {key} is {value}, but not that of the workload")


def _given(args: argparse.Namespace, name: str) -> Any:
    """What an option says, or else the file of `--space`; raises `ParplanError` if not the same."""
    option, said = getattr(args, name), job_of_space(getattr(args, "space", None)).get(name)
    if None not in (option, said) and option != said:
        raise ParplanError(f"--{name} {option}: {args.space} says {said}")
    return option or said


def requested_precision(args: argparse.Namespace) -> Precision:
    """What `--precision` and `--no-mixed-precision` say; raises `ParplanError` if not the same."""
    asked = _given(args, "precision")
    given = SAME_PRECISION.get(asked, asked)
    if args.no_mixed_precision and given not in (None, "fp32"):
        raise ParplanError(f"--precision {asked}: contradicts --no-mixed-precision")
    found: Precision = given or ("fp32" if args.no_mixed_precision else "bf16")
    return found


def requested_workload(args: argparse.Namespace, global_batch: int) -> Workload:
    """The workload that the arguments describe."""
    return Workload(
        model=find_model(args.model),
        seq_len=args.seq_len,
        global_batch=global_batch,
        precision=requested_precision(args),
        optimizer=_given(args, "optimizer") or "adamw",
        tf32=args.tf32,
        **requested_software(args, measured=_is_measured(args)),
    )


def requested_software(args: argparse.Namespace, *, measured: bool) -> dict[str, Any]:
    """The fields of a workload that `--software` and `--attention` set.

    `measured`: whether the machine is one whose kernels were measured.
    """
    software = _given(args, "software")
    chosen = setting_named(software).fields if software else default_fields()
    fields = {"framework": default_framework(), **chosen}
    if getattr(args, "attention", None):
        fields["attention"] = args.attention
    return {**fields, "framework": framework_on(fields["framework"], measured=measured)}


def workload_on(workload: Workload, cluster: Cluster) -> Workload:
    """`workload` with the constants that are meant on `cluster`, where none were chosen."""
    meant = framework_on(workload.framework, measured=cluster.measured is not None)
    return replace(workload, framework=meant)


def _is_measured(args: argparse.Namespace) -> bool:
    name = args.profile or args.cluster or ""
    return name == HERE or name.endswith(".json")


def batches(text: str) -> list[int]:
    """The batch sizes of `--global-batch`."""
    try:
        return [count(part) for part in text.split(",")]
    except argparse.ArgumentTypeError:
        raise ParplanError(
            f"--global-batch: expected a number, or several as in 256,1; got {text!r}"
        ) from None
