"""Kills, cuts and full disks in numbers: `python -m tests.system.inject_faults [--rounds N] ...`.

Each fault is survived if the run that goes on ends with the bytes of one that was never disturbed.
"""

import argparse
import random
import sys
import tempfile
from pathlib import Path

from parplan._journal import read_journal
from tests.system.test_resume_after_kill import LANDSCAPE, SEARCH, command, files, killed

COMMANDS = {
    "landscape": (LANDSCAPE, "cells.jsonl", ()),
    "search": (SEARCH, "search.jsonl", ("--resume",)),
}


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
    words, journal, again = COMMANDS[name]
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
    return finished((*words, *again), folder) and files(folder) == files(whole)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    injected = survived = 0
    with tempfile.TemporaryDirectory() as name:
        top = Path(name)
        for case, (words, _, _) in COMMANDS.items():
            whole = top / f"{case}-whole"
            assert finished(words, whole)
            for number in range(args.rounds):
                for kind in ("kill", "cut", "zeros", "disk"):
                    folder = top / f"{case}-{kind}-{number}"
                    well = tried(case, kind, args.seed + number, whole, folder)
                    injected, survived = injected + 1, survived + well
                    if not well:
                        sys.stdout.write(f"lost: {case}, {kind}, seed {args.seed + number}\n")
    sys.stdout.write(f"{injected} faults injected, {survived} survived with equal bytes\n")
    return int(survived < injected)


if __name__ == "__main__":
    sys.exit(main())
