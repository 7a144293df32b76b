"""Entry point of one worker process under torchrun."""

import importlib
import json
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

from parplan.backend.workers.heartbeat import begin_beating
from parplan.backend.workers.launch import OUT_OF_MEMORY
from parplan.backend.workers.out_of_memory import RanOutOfMemoryError
from parplan.errors import ParplanError

CHECK_EVERY_S = 0.5

WORK = {
    "execute": ("parplan.backend.execution.job", "measure"),
    "calibrate": ("parplan.backend.calibration.worker", "sit"),
}
"""What a job's `work` stands for: a function of the job and of `say`, imported when needed."""


def end_with(launcher: int) -> None:
    """End this process soon after its parent or the launcher has gone, whatever it waits for."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent and _alive(launcher):
            time.sleep(CHECK_EVERY_S)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def say(line: str) -> None:
    """Progress, from rank 0."""
    if os.environ.get("RANK") == "0":
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()


def main() -> None:
    """Do the job of the folder that is the only argument; rank 0 leaves `result.json` there."""
    folder = Path(sys.argv[1])
    job: dict[str, Any] = json.loads((folder / "job.json").read_text())
    end_with(job["launcher"])
    begin_beating()
    module, function = WORK[job.get("work", "execute")]
    work = getattr(importlib.import_module(module), function)
    try:
        result = work(job, say)
    except RanOutOfMemoryError as error:
        (folder / OUT_OF_MEMORY).write_text(json.dumps({"plan": error.place}))
        sys.exit(1)
    except ParplanError as error:
        # One line for the launcher to repeat.
        sys.stderr.write(f"{error}\n")
        sys.exit(1)
    if os.environ.get("RANK") == "0":
        part = folder / "result.part"
        part.write_text(json.dumps(result))
        part.rename(folder / "result.json")
    _end()


def _end() -> None:
    """End at once: threads of torch that still hold Python objects abort when Python goes first."""
    importlib.import_module("parplan.backend.workers.processes").leave()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
