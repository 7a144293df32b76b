"""`parplan hardware`: what is known of accelerators and clusters, and where it comes from."""

import argparse
import importlib
from pathlib import Path

from parplan.experiments.arguments.kernel_fit import add_fit_arguments
from parplan.experiments.commands.study import convert as convert_command
from parplan.experiments.commands.study import fit_collectives
from parplan.experiments.commands.study.hardware_tables import (
    compared_rows,
    hardware_named,
    rows_of,
    source_rows,
)
from parplan.experiments.output.tables import columns
from parplan.hardware.estimates.profile_compare import Agreement, agreements
from parplan.hardware.estimates.profile_compare import compared as compared_pairs
from parplan.hardware.estimates.profile_file import machine_differences, read_profile
from parplan.hardware.machines.presets import (
    accelerator_names,
    accelerator_table,
    cluster_names,
    preset_aliases,
)
from parplan.hardware.machines.tables import AcceleratorTable


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `parplan hardware`."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    actions.add_parser("list", help="every accelerator and cluster")
    show = actions.add_parser("show", help="all values of one, with their sources")
    show.add_argument(
        "name", help="an accelerator such as h100-sxm, a cluster such as 64xh100, or FILE.toml"
    )
    compare = actions.add_parser("compare", help="two accelerators, or two clusters, side by side")
    compare.add_argument("first")
    compare.add_argument("second")
    add_fit_arguments(actions.add_parser("fit-kernels", help="fit the model of kernel times"))
    fit_collectives.add_arguments(actions)
    convert_command.add_arguments(
        actions.add_parser("convert", help="a hardware file of another simulator as a cluster")
    )
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
        command = importlib.import_module("parplan.experiments.commands.study.fit_kernels")
        return int(command.run(args))
    elif args.action == "fit-collectives":
        return fit_collectives.run(args)
    elif args.action == "convert":
        return convert_command.run(args)
    elif args.action == "compare-profiles":
        print(compared_profiles(args.first, args.second))
    else:
        print(compared(args.first, args.second))
    return 0


def listing() -> str:
    """A line per accelerator with its aliases, then the names of the clusters."""
    others = preset_aliases()
    rows = [("name", "16-bit TFLOP/s", "memory GB", "GB/s", "W", "title", "also")]
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
                f"{table.board_power_w:g}" if table.board_power_w else "-",
                table.title,
                ", ".join(others[name]),
            )
        )
    clusters = columns([("  " + name, ", ".join(others[name])) for name in cluster_names()])
    return f"{columns(rows)}\n\nclusters, and nodes (4xNODE for four of them):\n{clusters}"


def shown(name: str) -> str:
    """All values of an accelerator with their sources, or of a cluster."""
    hardware = hardware_named(name)
    sources = source_rows(hardware) if isinstance(hardware, AcceleratorTable) else []
    return columns([*rows_of(hardware), *sources])


def compared(first: str, second: str) -> str:
    """The values of two accelerators or of two clusters, and the second's over the first's."""
    return columns([("", first, second, "ratio"), *compared_rows(first, second)])


def compared_profiles(first: Path, second: Path) -> str:
    """Count the measurements that agree within the noise of both, by kind, after differences."""
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
