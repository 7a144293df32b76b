"""`parplan explore`: the candidates of a search as a page in the browser."""

import argparse
import contextlib
import sys
import webbrowser
from pathlib import Path

from parplan._files import check_writable, write_whole
from parplan.errors import ParplanError
from parplan.experiments.arguments.workload import (
    add_workload_options,
    batches,
    requested_cluster,
    requested_workload,
)
from parplan.experiments.report.render import check_own_page
from parplan.hardware.network.cluster import Cluster
from parplan.sim.workload import Workload

MOST_PORT = 65535


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `parplan explore`."""
    parser.add_argument(
        "model",
        metavar="MODEL|FOLDER",
        help="an output folder of parplan plan; or a model, as in parplan plan: plans of the "
        "usual dimensions are shown at once, those of a search of everything when they are found",
    )
    add_workload_options(parser, required=False)
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="PAGE.html",
        help="write the page as a single file, which needs no server, and end",
    )
    parser.add_argument(
        "--port",
        type=int,
        default=0,
        help="port of 127.0.0.1 that the page is served on (default: a free one)",
    )
    parser.add_argument(
        "--no-browser", action="store_true", help="print the address, but open no browser"
    )


def run(args: argparse.Namespace) -> int:
    """Write the page, or serve it until an interrupt."""
    # Imported here: help starts faster.
    from parplan.experiments.explorer.job import from_folder, searched
    from parplan.experiments.explorer.page import page
    from parplan.experiments.explorer.server import ExplorerServer

    if args.output is not None:
        check_writable(args.output.parent)
        check_own_page(args.output)
    if not 0 <= args.port <= MOST_PORT:
        raise ParplanError(f"--port: 0 to {MOST_PORT}, got {args.port}")
    if args.global_batch is None and args.seq_len is None:
        if not Path(args.model).is_dir():
            raise ParplanError(
                f"{args.model}: is not a folder; a model needs --seq-len, --global-batch, --cluster"
            )
        job = from_folder(Path(args.model))
    else:
        job = searched(*_asked(args))
    if args.output is not None:
        job = job if job.is_whole else job.improved()
        write_whole(args.output, page(job, served=False).encode())
        print(args.output)
        return 0
    server = ExplorerServer(job, args.port)
    with contextlib.closing(server.socket):
        print(server.url, flush=True)
        sys.stderr.write("parplan: the page is there until this ends (Ctrl-C)\n")
        if not args.no_browser:
            webbrowser.open(server.url)
        with contextlib.suppress(KeyboardInterrupt):
            server.serve_forever(poll_interval=0.2)
    return 0


def _asked(args: argparse.Namespace) -> tuple[Workload, Cluster]:
    """What is to be searched; raises `ParplanError` where a part of it is missing."""
    for name in ("seq_len", "global_batch"):
        if getattr(args, name) is None:
            raise ParplanError(f"--{name.replace('_', '-')}: is needed with a model")
    sizes = batches(args.global_batch)
    if len(sizes) > 1:
        raise ParplanError(f"--global-batch: one number, got {args.global_batch}")
    cluster = requested_cluster(args.cluster, args.profile, args.software)
    return requested_workload(args, sizes[0]), cluster
