"""Benchmark of `parplan plan` as a user runs it: a process of its own for each of several jobs.

Each searches the default space, with start-up, tables and pictures, as far as its default gap and
time. CPU seconds and peak memory are those that the system says of the process.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from parplan.errors import ParplanError
from parplan.experiments.benchmarks.simulator import Measure


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What `parplan plan` is asked for, and what that should take."""

    model: str
    cluster: str
    seq_len: int
    batch: int
    most_s: float

    @property
    def name(self) -> str:
        """The job as a row of the benchmark names it."""
        return f"{self.model} on {self.cluster}, default space"


JOBS = (
    Job(model="llama3-8b", cluster="8xh100", seq_len=4096, batch=32, most_s=1.5),
    Job(model="llama3-70b", cluster="64xh100", seq_len=4096, batch=128, most_s=5.0),
    Job(model="llama3-405b", cluster="16384xh100", seq_len=8192, batch=2048, most_s=5.0),
    Job(model="deepseek-v3", cluster="2048xh800", seq_len=4096, batch=15360, most_s=10.0),
)
MOST_GAP, MOST_BYTES = 0.01, 1e9


def measures(jobs: tuple[Job, ...] = JOBS) -> Iterator[Measure]:
    """Plans, CPU seconds, memory, and gap of each job. Raises `ParplanError` where one fails."""
    for job in jobs:
        found, cpu_s, peak_bytes = _run(job)
        search, step_s = found["search"], found["predicted"]["step_s"]
        yield Measure(what=job.name, value=search["candidates"], unit="plans")
        yield Measure(what=job.name, value=step_s, unit="s a step")
        yield Measure(
            what=f"{job.name}, process", value=cpu_s, unit="s", target=f"at most {job.most_s:g} s"
        )
        most = f"at most {MOST_BYTES / 1e9:g}"
        yield Measure(
            what=f"{job.name}, peak memory", value=peak_bytes / 1e9, unit="GB", target=most
        )
        most = f"at most {MOST_GAP:.0%}"
        yield Measure(what=f"{job.name}, gap", value=100 * search["gap"], unit="%", target=most)


def _run(job: Job) -> tuple[dict[str, Any], float, float]:
    """The result as JSON, CPU seconds and bytes of the process."""
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile() as out:
        command = [
            *(sys.executable, "-m", "parplan", "plan", job.model, "--cluster", job.cluster),
            *("--seq-len", str(job.seq_len), "--global-batch", str(job.batch), "--json"),
            *("--output", folder),
        ]
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise ParplanError(f"benchmark: {' '.join(command[1:])} failed; run it to see why")
        out.seek(0)
        # Kilobytes on Linux, bytes on macOS.
        unit = 1 if sys.platform == "darwin" else 1024
        return json.load(out), usage.ru_utime + usage.ru_stime, usage.ru_maxrss * unit
