"""`parplan validate --search`: the answers for published jobs, beside what was run."""

import argparse
import sys
from collections.abc import Sequence
from functools import partial

from parplan.errors import ParplanError
from parplan.experiments.accuracy.searched import (
    findings,
    sampled,
    search_row,
    search_summary,
    searched,
)
from parplan.experiments.cases.read import Case
from parplan.experiments.output.folder import OutputFolder
from parplan.experiments.output.progress import ProgressLine
from parplan.planners.search.workers import in_order

MOST_SAID = 20
"""Findings that are printed; all are in `search.csv`."""


def run_search(args: argparse.Namespace, cases: Sequence[Case]) -> int:
    """Search every job, print a line per source and the findings, write `search.csv`."""
    if not 0 <= args.search_seconds < float("inf"):
        raise ParplanError(f"--search-seconds: at least 0, got {args.search_seconds:g}")
    if args.sample is not None:
        if args.sample < 1:
            raise ParplanError(f"--sample: at least 1, got {args.sample}")
        cases = sampled(cases, args.sample)
    output, progress = OutputFolder(args.output, args.argv), ProgressLine()
    found = []
    with in_order(partial(searched, seconds=args.search_seconds), cases, args.jobs) as results:
        for result in results:
            found.append(result)
            progress("search", len(found), len(cases))
    progress.end()
    print(search_summary(found))
    lines = findings(found)
    for line in lines[:MOST_SAID]:
        print(line)
    if len(lines) > MOST_SAID:
        print(f"{len(lines) - MOST_SAID} more are in search.csv")
    output.write_csv("search.csv", [search_row(result) for result in found])
    files = [str(path) for path in args.files]
    output.write_manifest(
        {
            "files": files,
            "groups": args.group,
            "seconds": args.search_seconds,
            "sample": args.sample,
        }
    )
    print(f"parplan: results: {output.path}/ ({', '.join(sorted(output.files))})", file=sys.stderr)
    return 0
