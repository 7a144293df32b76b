"""`parplan hardware fit-kernels`: constants of the kernel time model from measurements."""

import argparse
import io

from parplan._files import write_whole
from parplan.experiments.fits.kernel_fit_figure import figure
from parplan.experiments.fits.kernel_fit_report import fit_file, peak_rows, report, toml_text
from parplan.experiments.fits.memory_fit import fit_memory_file, memory_report, memory_toml

ROW = "{:16}{:14}{:20}{:>5}{:>9}{:>8}{:>8}"


def run(args: argparse.Namespace) -> int:
    """Fit, say how close the fit comes to what it did not see, and write what is asked for."""
    measurements, constants = fit_file(args.data)
    held_out = sum(m.held_out for m in measurements)
    print(f"{len(measurements)} kernels; {held_out} held out by the digest of their shape")
    print("error of predicted time: |error| median and 90th percentile, bias: median of the error")
    for row in [*report(measurements, constants), *peak_rows(args.data)]:
        print(ROW.format(*row))
    moved, of_host, memory = fit_memory_file(args.memory_data)
    held_out = sum(m.held_out for m in moved)
    print(
        f"{len(moved)} rows of kernels bound by memory, {held_out} held out by the digest of their "
        f"shape; {of_host} more are bound by the host"
    )
    for row in memory_report(memory, moved):
        print(ROW.format(*row))
    if args.write_memory:
        write_whole(args.write_memory, memory_toml(memory, moved).encode())
    if args.write:
        write_whole(args.write, toml_text(constants).encode())
    if args.plot:
        out = io.BytesIO()
        figure(measurements, constants).savefig(out, format="png", dpi=110)
        write_whole(args.plot, out.getvalue())
    return 0
