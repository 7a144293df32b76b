"""Inputs tried and failed: `python -m tests.system.fuzz.run [--inputs N] [TARGET ...]`.

Targets are those of `tests.system.test_fuzz`, in slices, each from another seed. A slice ends at
its first failure, which is printed as small as it was made; the next ones go on.
"""

import argparse
import sys
import traceback
from collections import Counter

from tests.system.test_fuzz import ALL, SHARE, tried

SLICE = 200


def slices(name: str, inputs: int) -> int:
    """Try about so many inputs of a target in slices; how many failed."""
    seen: Counter[str] = Counter()
    failed, share = 0, SHARE.get(name, 1.0)
    while seen.total() < inputs and failed < 20:
        count = min(SLICE, inputs - seen.total())
        own: Counter[str] = Counter()
        try:
            tried(name, max(1, round(count / share)), own, fixed=False)
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            failed += 1
            sys.stdout.write(f"{name}: failed\n{traceback.format_exc()[-4000:]}\n")
        seen += own
        if sys.stderr.isatty():
            sys.stderr.write(f"\r{name}: {seen.total()} of {inputs}")
    counts = f"{seen['accepted']} accepted, {seen['refused']} refused, {failed} failed"
    sys.stdout.write(f"{name}: {seen.total()} tried, {counts}\n")
    sys.stdout.flush()
    TOTAL.update(tried=seen.total(), failed=failed)
    return failed


TOTAL: Counter[str] = Counter()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=", ".join(ALL))
    parser.add_argument("--inputs", type=int, default=40_000)
    args = parser.parse_args()
    names = args.targets or list(ALL)
    shares = sum(SHARE.get(name, 1.0) for name in names)
    for name in names:
        slices(name, round(args.inputs * SHARE.get(name, 1.0) / shares))
    sys.stdout.write(f"{TOTAL['tried']} inputs tried, {TOTAL['failed']} failed\n")
    return int(TOTAL["failed"] > 0)


if __name__ == "__main__":
    sys.exit(main())
