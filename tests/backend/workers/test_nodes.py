"""One run over several machines: agents that meet by torchrun's rendezvous."""

import csv
import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from parplan.backend.workers.launch import Nodes, launch
from parplan.errors import ParplanError

pytestmark = pytest.mark.timeout(300)

WORKER = """
import json, os, sys
from pathlib import Path
import torch.distributed as dist
folder = Path(sys.argv[1])
dist.init_process_group("gloo")
everyone = [None] * dist.get_world_size()
dist.all_gather_object(everyone, (os.environ["GROUP_RANK"], os.environ["LOCAL_RANK"]))
if dist.get_rank() == 0:
    (folder / "result.json").write_text(json.dumps(everyone))
dist.barrier()
dist.destroy_process_group()
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_two_agents_make_one_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "their_worker.py").write_text(WORKER)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    endpoint, found = f"127.0.0.1:{free_port()}", {}

    def agent(rank: int) -> None:
        nodes = Nodes(count=2, rank=rank, endpoint=endpoint)
        found[rank] = launch({}, 1, timeout_s=120, module="their_worker", nodes=nodes)

    other = threading.Thread(target=agent, args=(1,))
    other.start()
    agent(0)
    other.join()
    assert found == {0: [["0", "0"], ["1", "0"]], 1: None}


@pytest.mark.parametrize(
    ("nodes", "message"),
    [
        ({"count": 2, "rank": 2, "endpoint": "a:1"}, "rank from 0 to nnodes - 1, got 2 of 2"),
        ({"count": 0}, "got 0 of 0"),
        ({"count": 2}, "rdzv-endpoint: several nodes need HOST:PORT of node 0, got ''"),
        ({"count": 2, "endpoint": "host"}, "got 'host'"),
    ],
)
def test_what_nodes_cannot_be(nodes: dict[str, object], message: str) -> None:
    with pytest.raises(ParplanError, match=message):
        Nodes(**nodes)  # type: ignore[arg-type]


@pytest.fixture
def hosts() -> Iterator[list[list[str]]]:
    """How to run something on each of two hosts, which are network namespaces."""
    if os.geteuid() or not shutil.which("ip"):
        pytest.skip("network namespaces need root and iproute2")
    names, links = ["parplan0", "parplan1"], ["pp0", "pp1"]

    def ip(*words: str) -> None:
        subprocess.run(["ip", *words], check=True, capture_output=True)

    try:
        for name in names:
            ip("netns", "add", name)
        ip("link", "add", links[0], "type", "veth", "peer", "name", links[1])
        for n, (name, link) in enumerate(zip(names, links, strict=True)):
            ip("link", "set", link, "netns", name)
            ip("-n", name, "addr", "add", f"10.77.0.{n + 1}/24", "dev", link)
            ip("-n", name, "link", "set", link, "up")
            ip("-n", name, "link", "set", "lo", "up")
    except subprocess.CalledProcessError as error:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)
        pytest.skip(f"no network namespaces here: {error.stderr}")
    yield [
        ["ip", "netns", "exec", name, "env", f"GLOO_SOCKET_IFNAME={link}"]
        for name, link in zip(names, links, strict=True)
    ]
    for name in names:
        subprocess.run(["ip", "netns", "del", name], check=True)


@pytest.mark.long
def test_plans_are_executed_over_two_hosts(hosts: list[list[str]], tmp_path: Path) -> None:
    words = ("execute", "gpt-tiny", "--layers", "2", "--seq-len", "16", "--global-batch", "8")
    words += ("--repeats", "3", "--nnodes", "2", "--rdzv-endpoint", "10.77.0.1:29512")
    agents = []
    for rank, host in enumerate(hosts):
        own = ("--node-rank", str(rank), "-o", f"node{rank}")
        command = [*host, sys.executable, "-m", "parplan.experiments", *words, *own]
        agents.append(
            subprocess.Popen(
                command, cwd=tmp_path, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
        )
    said = [agent.communicate(timeout=200) for agent in agents]
    assert [agent.returncode for agent in agents] == [0, 0], said
    assert "the results are on node 0" in said[1][1]
    with (tmp_path / "node0" / "executed.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["num_stages"] for row in rows} == {"1", "2"}
    for row in rows:
        assert float(row["loss_difference"]) < 1e-5
        # From clocks of one host each: neither negative nor hours.
        assert 0 < float(row["measured_s"]) < 60
        assert abs(float(row["error"])) < 3
