"""Failures of commands in numbers: `python -m tests.system.inject_faults [COMMAND ...]`.

Of each command every operation on files fails in turn, in every way (`tests.system.fault_points`);
`--stride N` takes every N-th. Then searches and landscapes are killed at random moments, cut off,
and run on a full disk. A fault is survived if it ends in one line, no line of a journal is lost,
and the run that goes on ends with the bytes of one that was never disturbed.
"""

import argparse
import importlib
import random
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from parplan._journal import read_journal
from parplan.experiments.cli import COMMANDS as MODULES
from tests.system.fault_commands import COMMANDS, files, prepared, why_lost
from tests.system.fault_points import KINDS, ended
from tests.system.test_resume_after_kill import LANDSCAPE, SEARCH, command, killed
from tests.system.test_resume_after_kill import files as results

ENDED = {
    "landscape": (LANDSCAPE, "cells.jsonl", ()),
    "search": (SEARCH, "search.jsonl", ("--resume",)),
}


def at_every_point(
    name: str, top: Path, kinds: Sequence[str] = KINDS, stride: int = 1, first: int = 0
) -> Iterator[tuple[str, str]]:
    """Each fault of a command, and what was lost by it, "" for nothing."""
    command = COMMANDS[name]
    # Before the forks, so that each need not import it.
    importlib.import_module(MODULES[command.words[0]][0])
    root = top / name
    clean = ended(command, command.words, prepared(root))
    assert clean.code == 0, clean.said
    whole = files(root / command.output)
    for kind in kinds:
        for at in range(first, len(clean.operations), stride):
            shutil.rmtree(root)
            failed = ended(command, command.words, prepared(root), at, kind)
            fault = f"{name}: {kind} at {at}: {clean.operations[at]}"
            yield fault, why_lost(command, failed, root, whole)


def finished(words: tuple[str, ...], folder: Path) -> bool:
    process = command(words, folder)
    process.communicate()
    return process.returncode == 0


def damaged(journal: Path, kind: str, chance: random.Random) -> None:
    """Leave the journal as a cut or a power failure does."""
    content = journal.read_bytes()
    first = content.index(b"\n") + 1
    end = chance.randrange(first, len(content) + 1)
    journal.write_bytes(content[:end] + (bytes(4096) if kind == "zeros" else b""))


def tried(name: str, kind: str, seed: int, whole: Path, folder: Path) -> bool:
    """One fault of a kind; whether nothing is lost in the end."""
    words, journal, again = ENDED[name]
    if kind == "disk":
        process = command(words, folder, limit=20_000)
        process.communicate()
    else:
        killed(words, folder, journal, seed, kills=1)
        if kind in ("cut", "zeros"):
            damaged(folder / journal, kind, random.Random(seed))
    if not (folder / journal).exists():
        return False
    read_journal(folder / journal)
    return finished((*words, *again), folder) and results(folder) == results(whole)


def at_random_moments(top: Path, rounds: int, seed: int) -> Iterator[tuple[str, str]]:
    """Processes that are killed, cut off, or find the disk full."""
    for case, (words, _, _) in ENDED.items():
        whole = top / f"{case}-whole"
        if rounds:
            assert finished(words, whole)
        for number in range(seed, seed + rounds):
            for kind in ("kill", "cut", "zeros", "disk"):
                well = tried(case, kind, number, whole, top / f"{case}-{kind}-{number}")
                yield f"{case}: {kind}, seed {number}", "" if well else "bytes were lost"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("commands", nargs="*", metavar="COMMAND", help=", ".join(COMMANDS))
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--stride", type=int, default=1)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=5, help="of random moments (default 5)")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    injected = survived = 0
    with tempfile.TemporaryDirectory() as name:
        top = Path(name)
        kinds = args.kinds.split(",")
        for found in (
            *(at_every_point(one, top, kinds, args.stride, args.first)
              for one in args.commands or COMMANDS),
            at_random_moments(top, args.rounds, args.seed),
        ):  # fmt: skip
            for fault, lost in found:
                injected, survived = injected + 1, survived + (not lost)
                if lost:
                    sys.stdout.write(f"lost: {fault}: {lost}\n")
                    sys.stdout.flush()
    sys.stdout.write(f"faults injected {injected}, survived {survived}\n")
    return int(survived < injected)


if __name__ == "__main__":
    sys.exit(main())
