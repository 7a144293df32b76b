"""Rate at which a checkout of Calculon tries executions; a script that runs by itself.

Arguments: the checkout, the seconds to run, a seed, and `muted` or `stock` for its logging. It
makes a debug record of every layer, which nobody reads but which takes most of its time; muted,
these calls return at once and its results are the same. Its command line makes the parts of the
space and its search tries them; in place of its pool of processes, parts are drawn until the time
is over. Prints one line of JSON: executions and CPU seconds.
"""

import argparse
import contextlib
import importlib
import json
import logging
import multiprocessing
import random
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any


class _Done(Exception):  # noqa: N818
    """Enough was tried."""


class _Sample:
    """Instead of a pool: some of the work, in this process."""

    def __init__(self, seconds: float, seed: int) -> None:
        self.seconds, self.seed = seconds, seed

    def __call__(self, processes: int) -> "_Sample":
        return self

    def __enter__(self) -> "_Sample":
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def starmap(self, search: Any, parts: list[Any]) -> None:
        """Parts in random order until the time is over."""
        random.Random(self.seed).shuffle(parts)
        start, executions = time.process_time(), 0
        for part in parts:
            executions += search(*part)[1]
            if time.process_time() - start > self.seconds:
                break
        found = {"executions": executions, "seconds": time.process_time() - start}
        sys.stdout.write(json.dumps(found) + "\n")
        raise _Done


def main(checkout: Path, seconds: float, seed: int, *, muted: bool) -> None:
    """Run Calculon's search for GPT-3 175B on 1,024 A100 with a batch of 1,536."""
    if muted:
        logging.disable(logging.CRITICAL)
    for name in ("psutil", "pandas"):
        try:
            importlib.import_module(name)
        except ImportError:
            stub = ModuleType(name)
            stub.cpu_count = lambda logical=False: 1  # type: ignore[attr-defined]
            sys.modules[name] = stub
    sys.path.insert(0, str(checkout))
    own = importlib.import_module("calculon.llm.optimal_execution")
    multiprocessing.Pool = _Sample(seconds, seed)  # type: ignore[assignment]
    parser = argparse.ArgumentParser()
    own.OptimalExecution.create_parser(parser.add_subparsers())
    files = [str(checkout / name) for name in ("models/gpt3-175B.json", "systems/a100_80g.json")]
    size = ["1024", "1536", "float16"]
    words = ["llm-optimal-execution", "-c", "1", files[0], *size, files[1], "unused.json"]
    args = parser.parse_args(words)
    with contextlib.suppress(_Done):
        args.func(None, args)


if __name__ == "__main__":
    main(Path(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3]), muted=sys.argv[4] == "muted")
