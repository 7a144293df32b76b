"""`--report`: every command that writes a folder can write its report as well."""

import argparse
import contextlib
import io
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

from parplan._files import is_folder, write_whole
from parplan.errors import ParplanError
from parplan.experiments.output.folder import MANIFEST


def add_report_option(parser: argparse.ArgumentParser) -> None:
    """`--report`, for a parser of a command that writes a folder."""
    for action in parser._actions:
        if action.dest == "output" and isinstance(action.default, Path):
            if not action.default.suffix:
                parser.add_argument(
                    "--report",
                    action="store_true",
                    help="also write report.html, all results on one page, to the folder",
                )
                parser.add_argument(
                    "--no-pictures", action="store_true", help="write no PNG files, which is faster"
                )
            return


class _Both(io.TextIOBase):
    """Writes on to a stream, and keeps lines; a line that is rewritten is kept as it ends."""

    def __init__(self, stream: TextIO, kept: list[str]) -> None:
        self.stream = stream
        self.kept = kept

    def write(self, text: str) -> int:
        self.kept.append(text)
        return self.stream.write(text)

    def flush(self) -> None:
        self.stream.flush()

    def isatty(self) -> bool:
        return self.stream.isatty()

    def fileno(self) -> int:
        return self.stream.fileno()


def wants_report(args: argparse.Namespace) -> bool:
    """Whether `--report` was given."""
    return bool(getattr(args, "report", False))


def run_with_report(command: Callable[[argparse.Namespace], int], args: argparse.Namespace) -> int:
    """Run a command, keep what it prints as `log.txt`, and write its report.

    A command that fails with an error leaves the folder as it is.
    """
    kept: list[str] = []
    before = _written_at(Path(args.output) / MANIFEST)
    out, err = _Both(sys.stdout, kept), _Both(sys.stderr, kept)
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = command(args)
    # Imported here: commands without a report start faster.
    from parplan.experiments.report.render import LOG, REPORT, check_own_page, write_report

    folder = Path(args.output)
    if not is_folder(folder):
        sys.stderr.write(f"parplan: report: there is none, since {folder} was not written\n")
        return code
    check_own_page(folder / REPORT)
    if os.path.lexists(folder / LOG) and not os.path.lexists(folder / REPORT):
        raise ParplanError(f"{folder / LOG}: is there already, and parplan did not write it")
    was_finished = before is not None and _written_at(folder / MANIFEST) == before
    if not was_finished or not os.path.lexists(folder / LOG):  # Else that of the run that made it.
        lines = [line.rsplit("\r", 1)[-1] for line in "".join(kept).split("\n")]
        write_whole(folder / LOG, "\n".join(lines).encode())
    write_report(folder, folder / REPORT)
    sys.stderr.write(f"parplan: report: {folder / REPORT}\n")
    return code


def _written_at(path: Path) -> int | None:
    """Nanoseconds, None where there is no such file."""
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return None
