"""`parplan hardware`: what is known of accelerators and clusters, and where it comes from."""

import argparse
import dataclasses
import importlib
from pathlib import Path

from parplan.experiments import fit_collectives_command
from parplan.experiments.kernel_fit_arguments import add_fit_arguments
from parplan.experiments.tables import columns
from parplan.hardware.cluster import Cluster
from parplan.hardware.errors import ParplanError, unknown_name
from parplan.hardware.preset_tables import AcceleratorTable
from parplan.hardware.presets import (
    accelerator_names,
    accelerator_table,
    cluster_names,
    cluster_preset,
)
from parplan.hardware.profile_compare import Agreement, agreements
from parplan.hardware.profile_compare import compared as compared_pairs
from parplan.hardware.profile_file import machine_differences, read_profile

GB = 1e9


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `parplan hardware`."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    actions.add_parser("list", help="every accelerator and cluster")
    show = actions.add_parser("show", help="all values of one, with their sources")
    show.add_argument("name", help="an accelerator such as h100-sxm, or a cluster such as 64xh100")
    compare = actions.add_parser("compare", help="two accelerators side by side")
    compare.add_argument("first")
    compare.add_argument("second")
    add_fit_arguments(actions.add_parser("fit-kernels", help="fit the model of kernel times"))
    fit_collectives_command.add_arguments(actions)
    profiles = actions.add_parser(
        "compare-profiles", help="whether two calibrations of a machine agree"
    )
    profiles.add_argument("first", type=Path)
    profiles.add_argument("second", type=Path)


def run(args: argparse.Namespace) -> int:
    """Print what is asked for."""
    if args.action == "list":
        print(listing())
    elif args.action == "show":
        print(shown(args.name))
    elif args.action == "fit-kernels":
        # Imported here: fitting needs scipy, which takes long to load.
        command = importlib.import_module("parplan.experiments.kernel_fit_command")
        return int(command.run(args))
    elif args.action == "fit-collectives":
        return fit_collectives_command.run(args)
    elif args.action == "compare-profiles":
        print(compared_profiles(args.first, args.second))
    else:
        print(compared(args.first, args.second))
    return 0


def listing() -> str:
    """A line per accelerator, then the names of the clusters."""
    rows = [("name", "16-bit TFLOP/s", "memory GB", "GB/s", "title")]
    for name in accelerator_names():
        table = accelerator_table(name)
        rates = table.dense_tflop_per_s
        rate = rates.bf16 or rates.fp16
        rows.append(
            (
                name,
                f"{rate:g}" if rate else "-",
                f"{table.memory_gb:g}",
                f"{table.hbm_gb_per_s:g}",
                table.title,
            )
        )
    clusters = "\n".join(f"  {name}" for name in cluster_names())
    return f"{columns(rows)}\n\nclusters, and nodes (4xNODE for four of them):\n{clusters}"


def shown(name: str) -> str:
    """All values of an accelerator or a cluster."""
    try:
        table = accelerator_table(name)
    except ParplanError:
        try:
            return _cluster(cluster_preset(name))
        except ParplanError as error:
            known = [*accelerator_names(), *cluster_names()]
            raise error if "x" in name else unknown_name("hardware", name, known) from None
    return columns([*_values(table), *_sources(table)])


def compared(first: str, second: str) -> str:
    """The values of two accelerators, and the second's over the first's."""
    a, b = accelerator_table(first), accelerator_table(second)
    rows = [("", first, second, "ratio")]
    for (label, left), (_, right) in zip(_values(a), _values(b), strict=True):
        rows.append((label, left, right, _ratio(left, right)))
    return columns(rows)


def compared_profiles(first: Path, second: Path) -> str:
    """How many measurements agree within the noise of both, by kind, after what differs."""
    a, b = read_profile(first), read_profile(second)
    lines = [
        f"machine.{difference.replace(', here ', ', ' + str(second) + ' ')}"
        for difference in machine_differences(a.machine, b.machine)
    ]
    rows: list[tuple[str, ...]] = [
        ("kind", "compared", "agree", "share", "difference", "without sign", "noise")
    ]
    rows += [_agreement_row(found) for found in agreements(compared_pairs(a, b))]
    return "\n".join([*lines, columns(rows)])


def _agreement_row(found: Agreement) -> tuple[str, ...]:
    return (
        found.kind,
        f"{found.compared}",
        f"{found.agree}",
        f"{found.agree / found.compared:.0%}",
        f"{found.difference:+.1%}",
        f"{found.absolute_difference:.1%}",
        f"{found.noise:.1%}",
    )


def _ratio(left: str, right: str) -> str:
    try:
        return f"{float(right) / float(left):.2f}"
    except (ValueError, ZeroDivisionError):
        return ""


def _values(table: AcceleratorTable) -> list[tuple[str, str]]:
    rates = dataclasses.asdict(table.dense_tflop_per_s)
    return [
        ("title", table.title),
        *((f"{d} [TFLOP/s, dense]", "-" if r is None else f"{r:g}") for d, r in rates.items()),
        ("memory [GB]", f"{table.memory_gb:g}"),
        ("usable memory [MiB]", f"{table.usable_memory_mib:g}"),
        ("memory bandwidth [GB/s]", f"{table.hbm_gb_per_s:g}"),
        ("link", table.link),
        ("link [GB/s per direction]", f"{table.link_gb_per_s_per_direction:g}"),
        ("PCIe [GB/s per direction]", f"{table.pcie_gb_per_s_per_direction:g}"),
        ("processors", f"{table.num_processors}"),
        ("share of peak, large products", f"{table.gemm_efficiency:g}"),
        ("share of memory bandwidth", f"{table.hbm_efficiency:g}"),
        ("shortest kernel [us]", f"{table.kernel_launch_us:g}"),
    ]


def _sources(table: AcceleratorTable) -> list[tuple[str, str]]:
    return [(f"source of {k}", v) for k, v in dataclasses.asdict(table.sources).items()]


def _cluster(cluster: Cluster) -> str:
    rows = [
        ("cluster", cluster.name),
        ("accelerator", cluster.accelerator.name),
        ("accelerators", f"{cluster.num_accelerators}"),
        ("nodes", f"{cluster.num_nodes}"),
    ]
    for tier in cluster.tiers:
        link = tier.link
        rows.append(
            (
                f"{tier.name} of {tier.size}",
                f"{link.bytes_per_s / GB:.4g} GB/s per accelerator and direction, "
                f"{link.latency_s * 1e6:g} us",
            )
        )
    return columns(rows)
