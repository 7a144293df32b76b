"""Heartbeat and progress files of a worker, read by the launcher.

`alive.RANK`: its process, touched again and again by a thread; a process that is stopped, or whose
interpreter hangs, no longer does. `steps.RANK.jsonl`: a line for each training step that it did.
Imports no torch.
"""

import json
import os
import re
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

FOLDER = "PARPLAN_JOB_FOLDER"
"""The environment variable with the folder of the job."""

BEAT_S = 0.5

_FORWARD = re.compile(r"\d+F")


def begin_beating() -> None:
    """Say from now on that this process is there."""
    path = _own("alive.{}")
    if path is None:
        return
    path.write_text(str(os.getpid()))

    def beat() -> None:
        while path.exists():
            os.utime(path)
            time.sleep(BEAT_S)

    threading.Thread(target=beat, daemon=True).start()


def keep_step(
    plan: dict[str, Any],
    stage: int,
    seconds: float,
    marks: Iterable[tuple[str, float, float]],
) -> None:
    """Keep what one training step of a plan took, and its forward computations alone.

    `marks`: (event name, start, end) in seconds. Forwards wait for no other rank, where the plan
    neither shards parameters nor splits layers.
    """
    path = _own("steps.{}.jsonl")
    if path is None:
        return
    forward_s = sum(end_s - start_s for name, start_s, end_s in marks if _FORWARD.match(name))
    row = {"plan": plan, "stage": stage, "seconds": seconds, "forward_s": forward_s}
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")


def _own(name: str) -> Path | None:
    folder = os.environ.get(FOLDER)
    return None if folder is None else Path(folder, name.format(os.environ.get("RANK", "0")))
