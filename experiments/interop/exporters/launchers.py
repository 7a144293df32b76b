"""Scripts that start an exported configuration on all nodes."""

from collections.abc import Mapping

from parplan.errors import ParplanError
from parplan.experiments.interop.exporters.exported import Exported, per_node
from parplan.hardware.network.cluster import Cluster

LAUNCHERS = ("torchrun", "slurm")
LAUNCH = "launch.sh"
PORT = 29500

PROGRAMS: Mapping[str, str] = {
    "megatron-bridge": "YOUR_RECIPE.py --config-file megatron_bridge.yaml",
    "deepspeed": "YOUR_PROGRAM.py --deepspeed deepspeed.json",
    "torchtitan": "-m torchtitan.train --job.config_file torchtitan.toml",
    "transformers": "YOUR_PROGRAM.py training_arguments.yaml",
}
"""What torchrun starts; names in capitals are the user's."""


def with_launcher(exported: Exported, to: str, cluster: Cluster, launcher: str | None) -> Exported:
    """The same files and `launch.sh`, which starts them under torchrun or Slurm.

    Raises `ParplanError` for another launcher.
    """
    if launcher is None:
        return exported
    if launcher not in LAUNCHERS:
        raise ParplanError(f"--launcher: {launcher!r} is not one of {', '.join(LAUNCHERS)}")
    text = _slurm(to, cluster) if launcher == "slurm" else _torchrun(to, cluster)
    return Exported(files={**exported.files, LAUNCH: text}, unsaid=exported.unsaid)


def _torchrun(to: str, cluster: Cluster) -> str:
    return f"""#!/bin/bash
# For each of {cluster.num_nodes} nodes: NODE_RANK from 0, MASTER_ADDR that of rank 0.
set -euo pipefail
: "${{MASTER_ADDR:=localhost}}" "${{MASTER_PORT:={PORT}}}" "${{NODE_RANK:=0}}"
export MASTER_ADDR MASTER_PORT NODE_RANK
{_start(to, cluster)}
"""


def _slurm(to: str, cluster: Cluster) -> str:
    inner = _start(to, cluster).replace("'", "'\\''")
    return f"""#!/bin/bash
#SBATCH --nodes={cluster.num_nodes}
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node={per_node(cluster)}
set -euo pipefail
MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
export MASTER_ADDR MASTER_PORT={PORT}
srun bash -c 'export NODE_RANK=$SLURM_NODEID
{inner}' launch "$@"
"""


def _start(to: str, cluster: Cluster) -> str:
    """The command of one node, by the variables of its place."""
    place = (
        f"--nnodes {cluster.num_nodes} --nproc-per-node {per_node(cluster)} "
        '--node-rank "$NODE_RANK" --master-addr "$MASTER_ADDR" --master-port "$MASTER_PORT"'
    )
    if to == "megatron":
        return f'TORCHRUN_ARGS="{place.replace(chr(34), "")}" bash megatron.sh "$@"'
    if to == "accelerate":
        return (
            'accelerate launch --config_file accelerate.yaml --machine_rank "$NODE_RANK" '
            '--main_process_ip "$MASTER_ADDR" --main_process_port "$MASTER_PORT" '
            'YOUR_PROGRAM.py "$@"'
        )
    return f'torchrun {place} \\\n  {PROGRAMS[to]} "$@"'
