"""Identity of this machine, as stored in a profile."""

import os
import platform
from pathlib import Path

import torch

from parplan.backend.calibration.machine_costs import memory_of_process
from parplan.errors import ParplanError
from parplan.hardware.estimates.profile import Machine


def default_processes() -> int:
    """One for each GPU, or two on a CPU of several cores."""
    return torch.cuda.device_count() or min(2, num_cores())


def num_gpus() -> int:
    """GPUs that torch can use."""
    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def num_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0))


def machine_here(num_processes: int) -> Machine:
    """This machine as `num_processes` processes share it.

    GPUs where there are enough of them, otherwise the CPU; the same rule as in a run. Raises
    `ParplanError` for more processes than cores.
    """
    if not 1 <= num_processes <= num_cores():
        raise ParplanError(
            f"processes: must be 1 to {num_cores()}, the cores of this machine; got {num_processes}"
        )
    on_gpu = 0 < num_processes <= torch.cuda.device_count()
    backend = "nccl" if on_gpu else "gloo"
    device = torch.device("cuda", 0) if on_gpu else torch.device("cpu")
    memory = memory_of_process(device)
    return Machine(
        device=torch.cuda.get_device_name(0) if on_gpu else _processor(),
        device_kind="cuda" if on_gpu else "cpu",
        num_processes=num_processes,
        cores=num_cores(),
        threads_per_process=max(1, num_cores() // num_processes),
        memory_bytes=int(memory if on_gpu else memory / num_processes),
        backend="none" if num_processes == 1 else backend,  # type: ignore[arg-type]
        torch=torch.__version__,
        python=platform.python_version(),
        cuda=_cuda() if on_gpu else None,
    )


def _processor() -> str:
    """The processor's name as Linux tells it, or else its architecture."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def _cuda() -> str:
    """The release of torch's CUDA (or HIP) version, and the driver's where Linux tells it."""
    built = torch.version.cuda or f"hip {torch.version.hip}"
    try:
        words = Path("/proc/driver/nvidia/version").read_text().split()
    except OSError:
        return built
    driver = next((w for w in words if w[0].isdigit() and "." in w), "unknown")
    return f"{built}, driver {driver}"
