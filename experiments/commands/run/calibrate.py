"""`parplan calibrate`: measure this machine, and keep what was found in a profile."""

import argparse
import os
import statistics
import sys
from functools import partial
from pathlib import Path

from parplan._files import check_writable, is_folder, remove_parts
from parplan.backend.calibration.calibrate import calibrate, is_whole, settings_here
from parplan.backend.calibration.grid import CalibrationSettings
from parplan.backend.calibration.partial_file import PartialFile, partial_path
from parplan.errors import ParplanError, RunFailedError
from parplan.experiments.figures.profile import figures
from parplan.experiments.output.folder import OutputFolder
from parplan.experiments.output.progress import ProgressLine
from parplan.experiments.output.tables import columns
from parplan.hardware.estimates.profile import (
    CollectiveCall,
    CollectiveOp,
    Machine,
    MeasuredKernel,
    Profile,
    Timing,
)
from parplan.hardware.estimates.profile_file import check_place, read_profile, write_profile
from parplan.hardware.kernels.kernel import Gemm
from parplan.hardware.machines.from_profile import (
    best_rates,
    memory_bytes_per_s,
    message_link,
)
from parplan.sim.models.find import find_model

BUSY = 0.5
"""Share of the cores, over the last minute, from which on the machine does not count as quiet."""

BUDGETS_S = {"full": 120.0, "quick": 25.0}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `parplan calibrate`."""
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        default=Path("profile.json"),
        help="output file (default %(default)s)",
    )
    parser.add_argument(
        "--model", default="gpt-tiny", help="model whose layers are timed too (default %(default)s)"
    )
    parser.add_argument(
        "--seq-len", type=int, default=64, help="sequence length of these layers (default 64)"
    )
    parser.add_argument(
        "--processes",
        type=int,
        help="processes that measure together (default: one per GPU, 2 on a CPU)",
    )
    parser.add_argument("--quick", action="store_true", help="fewer sizes and data types")
    parser.add_argument(
        "--budget-s",
        type=float,
        metavar="SECONDS",
        help="time limit in seconds (default 120; with --quick 25)",
    )
    parser.add_argument("--resume", action="store_true", help="continue an interrupted calibration")
    parser.add_argument(
        "--plots", type=Path, metavar="FOLDER", help="also write figures to this folder"
    )


def run(args: argparse.Namespace) -> int:
    """Measure, write, print a summary."""
    path: Path = args.output
    if path.suffix != ".json" or is_folder(path):
        raise ParplanError(f"--output: expected a file that ends in .json, got {path}")
    check_place(path)
    model = find_model(args.model)
    grid = "quick" if args.quick else "full"
    settings, machine = settings_here(model, args.seq_len, args.processes, grid)
    check_writable(path.parent)
    if args.resume and is_measured(path, settings, machine):
        _note(f"is finished already: profile: {path}")
        return 0
    plots = None if args.plots is None else OutputFolder(args.plots, args.argv)
    for name in (path.name, partial_path(path).name):
        remove_parts(path.parent, name)
    profile = _measured(args, settings, machine)
    write_profile(profile, path)
    print(summary(profile), flush=True)
    if plots is not None:
        drawn = figures(profile)
        for name in drawn:
            plots.write_figure(f"{name}.png", partial(drawn.__getitem__, name))
        plots.write_manifest({"profile": str(path)})
        _note(f"pictures: {plots.path}/ ({', '.join(sorted(plots.files))})")
    PartialFile(path, machine, settings).remove()
    said = "" if "bf16" in best_rates(profile) else " --precision fp32 (bf16 was not measured)"
    _note(f"profile: {path}; plan for this machine with --profile {path}{said}")
    return 0


def is_measured(path: Path, settings: CalibrationSettings, machine: Machine) -> bool:
    """Whether a file has the whole profile of these measurements, and none was begun since."""
    if not path.is_file() or os.path.lexists(partial_path(path)):
        return False
    try:
        return is_whole(read_profile(path), settings, machine)
    except ParplanError:  # Something else, which the profile replaces.
        return False


def _measured(args: argparse.Namespace, settings: CalibrationSettings, machine: Machine) -> Profile:
    partial = partial_path(args.output)
    if partial.exists() and not args.resume:
        _note(f"{partial} of an interrupted calibration is overwritten (--resume goes on with it)")
    _warn_if_busy(machine)
    try:
        return calibrate(
            settings,
            machine,
            args.output,
            budget_s=BUDGETS_S[settings.grid] if args.budget_s is None else args.budget_s,
            resume=args.resume,
            progress=ProgressLine(sys.stderr),
            note=_note,
        )
    except (KeyboardInterrupt, RunFailedError):
        _note(f"what was measured is in {partial}; the same command with --resume goes on")
        raise


def summary(profile: Profile) -> str:
    """The best rates, the messages and the noise, one a line."""
    m = profile.machine
    threads = f"{m.threads_per_process} thread" + ("s" if m.threads_per_process > 1 else "")
    each = "one GPU each" if m.device_kind == "cuda" else f"{threads} each"
    rows = [("machine", f"{m.device}, {m.num_processes} processes, {each}, {m.backend}")]
    rows += [(f"gemm {dtype}", _best_gemm(profile, dtype)) for dtype in _dtypes(profile)]
    rows.append(("memory", f"{memory_bytes_per_s(profile) / 1e9:.1f} GB/s"))
    link = message_link(profile)
    if link is not None:
        latency = f"{link.latency_s * 1e6:.0f} us"
        rows.append(("messages", f"{latency} and {link.bytes_per_s / 1e9:.2f} GB/s"))
    rows += [(op, _best_bus(profile, op)) for op in _ops(profile)]
    if profile.optimizer is not None:
        rows.append(("optimizer", f"{profile.optimizer.s_per_parameter * 1e9:.2f} ns a parameter"))
    kernels = [k.timing for k in profile.kernels]
    rows.append(("kernels", _noise(kernels)))
    if profile.collectives:
        rows.append(("communication", _noise([c.timing for c in profile.collectives])))
    return columns(rows)


def _dtypes(profile: Profile) -> list[str]:
    found = [k.kernel.dtype for k in profile.kernels if isinstance(k.kernel, Gemm)]
    return list(dict.fromkeys(found))


def _best_gemm(profile: Profile, dtype: str) -> str:
    def rate(measured: MeasuredKernel) -> float:
        return measured.kernel.flops / measured.timing.seconds

    of_dtype = [m for m in profile.of_kind(Gemm) if getattr(m.kernel, "dtype", None) == dtype]
    best = max(of_dtype, key=rate)
    k = best.kernel
    assert isinstance(k, Gemm)
    return f"{rate(best) / 1e9:,.1f} GFLOP/s at best ({k.m} x {k.k} by {k.k} x {k.n})"


def _ops(profile: Profile) -> list[CollectiveOp]:
    found = [c.collective.op for c in profile.collectives if c.collective.op != "send"]
    return list(dict.fromkeys(found))


def _best_bus(profile: Profile, op: CollectiveOp) -> str:
    def rate(measured: tuple[CollectiveCall, Timing]) -> float:
        return measured[0].bus_bytes / measured[1].seconds

    all_ranks = profile.machine.num_processes
    found = [(c.collective, c.timing) for c in profile.collectives if c.collective.op == op]
    of_all = [pair for pair in found if pair[0].num_ranks == all_ranks] or found
    shortest = min(timing.seconds for _, timing in of_all)
    best = max(map(rate, of_all))
    return f"{shortest * 1e6:.0f} us at least, bus bandwidth {best / 1e9:.2f} GB/s at best"


def _noise(timings: list[Timing]) -> str:
    noise = statistics.median(t.spread_s / t.seconds for t in timings)
    samples = statistics.median_low(t.samples for t in timings)
    return f"{len(timings)} configurations, {samples} samples each, noise {noise:.1%} (median)"


def _warn_if_busy(machine: Machine) -> None:
    """Other programs' work is no property of the machine, but it ends up in the profile."""
    busy = os.getloadavg()[0]
    if busy > BUSY * machine.cores:
        _note(
            f"warning: other programs keep {busy:.1f} of {machine.cores} cores busy; times and "
            "noise will be larger than on a quiet machine"
        )


def _note(line: str) -> None:
    print(f"parplan: {line}", file=sys.stderr, flush=True)
