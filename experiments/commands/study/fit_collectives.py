"""`parplan hardware fit-collectives`: the constants of collectives from published sweeps."""

import argparse
from pathlib import Path
from typing import Any

from parplan._files import write_whole
from parplan.experiments.output.tables import columns
from parplan.hardware.network.collective_efficiency import read_efficiencies


def add_arguments(actions: Any) -> None:
    """The action and its arguments."""
    fit = actions.add_parser(
        "fit-collectives", help="fit the constants of collectives to published measurements"
    )
    fit.add_argument("--data", type=Path, help="sweeps, one JSON object per line")
    fit.add_argument("--write", type=Path, help="where to put the constants (TOML)")
    fit.add_argument("-o", "--output", type=Path, default=Path("out/fit-collectives"))


def run(args: argparse.Namespace) -> int:
    """Fit, print the errors on what was fitted and on what was not, and draw both."""
    # scipy and matplotlib take a second to import, which other actions need not wait for.
    from parplan.experiments.fits import collective_data, collective_fit, collective_report
    from parplan.experiments.output.folder import OutputFolder

    folder = OutputFolder(args.output, args.argv)
    classes = read_efficiencies()
    data = args.data or collective_data.SWEEPS
    sweeps, unusable = collective_data.read_sweeps(data, classes)
    constants = collective_fit.fit([sweep for sweep in sweeps if sweep.part == "fit"])
    print(columns(collective_report.error_table(sweeps, constants)))
    print("median absolute relative error of time")
    print(
        f"timing around a framework's calls adds {constants.host_call_us:.3g} us: no property of "
        "the links, not written"
    )
    print(f"{len(unusable)} sweeps are not used:")
    for reason in sorted(set(unusable.values())):
        print(f"  {reason}: {', '.join(i for i in sorted(unusable) if unusable[i] == reason)}")
    if args.write:
        text = collective_report.efficiency_toml(sweeps, constants, classes)
        write_whole(args.write, text.encode())
        print(f"constants: {args.write}")
    folder.write_csv("errors.csv", collective_report.error_rows(sweeps, constants))
    folder.write_figure(
        "collectives.png", lambda: collective_report.bandwidth_figure(sweeps, constants)
    )
    folder.write_manifest({"data": str(data)}, seed=0)
    print(f"results: {args.output}/ ({', '.join(sorted(folder.files))})")
    return 0
