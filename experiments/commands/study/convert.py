"""`parplan hardware convert`: hardware files of other simulators as a cluster of parplan."""

import argparse
import sys
from pathlib import Path
from typing import Any

from parplan._files import check_writable, remove_file, write_whole
from parplan._strict import read_json, read_text
from parplan.errors import ParplanError
from parplan.experiments.commands.study.hardware_tables import rows_of
from parplan.experiments.interop.importers.convert_hardware import CONVERTERS, ConversionInputs
from parplan.experiments.interop.importers.from_accelerate import read_yaml
from parplan.experiments.interop.importers.machine_text import machine_toml, plain_name
from parplan.experiments.output.tables import columns
from parplan.hardware.machines.presets import accelerator_preset, read_cluster
from parplan.hardware.machines.unit_check import unit_warnings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `parplan hardware convert`."""
    parser.add_argument("file", type=Path, help="system file, or network file of ASTRA-sim")
    parser.add_argument(
        "--from",
        dest="source",
        choices=tuple(CONVERTERS),
        required=True,
        help="simulator that the file is for",
    )
    parser.add_argument("--nodes", type=int, default=1, help="number of nodes (default 1)")
    parser.add_argument("--accelerator", help="preset to use instead of the file's accelerator")
    parser.add_argument(
        "--system", type=Path, help="ASTRA-sim: the system file, for peak-perf and local-mem-bw"
    )
    parser.add_argument("--name", help="name of the cluster (default: that of the file)")
    parser.add_argument("-o", "--output", type=Path, help="output file (default NAME.toml)")


def run(args: argparse.Namespace) -> int:
    """Convert, write, read it back, and print what came of it."""
    if args.nodes < 1:
        raise ParplanError(f"--nodes: must be at least 1, got {args.nodes}")
    if args.accelerator is not None:
        accelerator_preset(args.accelerator)
    name = plain_name(args.name or args.file.stem)
    output = args.output or Path(f"{name}.toml")
    if output.exists():
        raise ParplanError(f"{output}: is there already; give another name with -o")
    asked = ConversionInputs(
        name=name,
        file=args.file.name,
        num_nodes=args.nodes,
        accelerator=args.accelerator,
        system=None if args.system is None else read_json(args.system),
    )
    machine = CONVERTERS[args.source](_table(args.file), str(args.file), asked)
    check_writable(output.parent)
    write_whole(output, machine_toml(machine).encode())
    try:
        cluster = read_cluster(output)
    except ParplanError:
        remove_file(output)
        raise
    print(columns(rows_of(cluster)))
    for line in (*machine.notes, *(f"unit? {warning}" for warning in unit_warnings(cluster))):
        print(f"parplan: {line}", file=sys.stderr)
    print(f"parplan: written: {output}", file=sys.stderr)
    return 0


def _table(path: Path) -> Any:
    if path.suffix in (".yml", ".yaml"):
        return read_yaml(read_text(path), str(path))
    table = read_json(path)
    if not isinstance(table, dict):
        raise ParplanError(f"{path}: expected a table, got {type(table).__name__}")
    return table
