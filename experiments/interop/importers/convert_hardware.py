"""Hardware files of Calculon, SimuMax and ASTRA-sim as machines of parplan.

| file | memory | bandwidths | of what |
|---|---|---|---|
| Calculon system (caa4b11) | GiB | 10^9 bytes/s | one accelerator, one direction |
| SimuMax system (4dcaae5) | GiB | 2^30 bytes/s | one accelerator; `inter_node`: a whole node |
| ASTRA-sim network (518bd51) | - | 2^30 bytes/s | one link, one direction |

SimuMax divides the bandwidth between nodes by the accelerators of a node
(`simumax/core/config.py`, `compute_net_op_time`); ASTRA-sim's analytical network takes 1 GB for
2^30 bytes (astra-network-analytical, `bw_GBps_to_Bpns`), its system file for 10^9.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from parplan.errors import ParplanError
from parplan.experiments.interop.importers.machine_text import (
    GIB_PER_GB,
    LAUNCH_US,
    MachineTables,
)

Tables = Mapping[str, Any]


class ConversionInputs(NamedTuple):
    """Inputs given beside the file."""

    name: str
    file: str
    num_nodes: int = 1
    accelerator: str | None = None
    """A preset that takes the place of what the file says of the accelerator."""
    system: Tables | None = None
    """ASTRA-sim's system file."""


def from_calculon(table: Tables, where: str, asked: ConversionInputs) -> MachineTables:
    """A system file of Calculon."""
    networks = _get(table, "networks", list, where)
    if len(networks) < 2:
        raise ParplanError(f"{where}: networks: expected two or more, got {len(networks)}")
    tiers: list[dict[str, Any]] = [
        {
            "name": "node" if i == 0 else f"tier {i + 1}",
            "fabric": "nvswitch",
            "size": _whole(network, "size", f"{where}: networks[{i}]"),
            "link_gb_per_s_per_direction": _number(network, "bandwidth", f"{where}: networks[{i}]"),
            "latency_us": 1e6 * _number(network, "latency", f"{where}: networks[{i}]"),
            "efficiency": _number(network, "efficiency", f"{where}: networks[{i}]"),
            "source": "Calculon: latency of a whole operation, here of one step",
        }
        for i, network in enumerate(networks)
    ]
    *inside, last = tiers
    per_node = inside[-1]["size"]
    network = {
        "name": "cluster",
        "fabric": "rail-fat-tree",
        "nics_per_node": per_node,
        "nic_gb_per_s_per_direction": last["link_gb_per_s_per_direction"],
        **{key: last[key] for key in ("latency_us", "efficiency", "source")},
    }
    notes = [
        "networks.ops, processor_usage: collectives are those of the fabric's class",
        f"networks[-1].size {last['size']:g}: the cluster has {asked.num_nodes * per_node}",
    ]
    chip = asked.accelerator or _calculon_chip(table, where, inside[0], notes)
    return MachineTables(
        name=asked.name,
        accelerator=chip,
        inside=tuple(inside),
        network=network,
        per_node=per_node,
        num_nodes=asked.num_nodes,
        source=f"converted from the Calculon system {asked.file}",
        notes=tuple(notes),
    )


def _calculon_chip(table: Tables, where: str, inner: Tables, notes: list[str]) -> dict[str, Any]:
    matrix = _get(table, "matrix", dict, where)
    names = {"float8": ("fp8",), "float16": ("fp16", "bf16"), "bfloat16": ("bf16",)}
    names["float32"] = ("fp32",)
    rates = {
        own: _number(matrix[dtype], "tflops", f"{where}: matrix.{dtype}")
        for dtype in matrix
        if dtype in names
        for own in names[dtype]
    }
    first: Tables = next(iter(matrix.values()), {})
    if not isinstance(first, Mapping):
        raise ParplanError(f"{where}: matrix: expected tables by dtype")
    memory, host = _get(table, "mem1", dict, where), _get(table, "mem2", dict, where)
    gib = _number(memory, "GiB", f"{where}: mem1")
    notes.append("vector: kernels that are not products are bound by memory")
    notes.append("processing_mode: matrix and memory time overlap as a roofline has it")
    if gib > 1e5:
        notes.append(f"mem1.GiB {gib:g}: memory without an end; set memory_gb to the device's")
    return _chip(
        rates,
        gib=gib,
        hbm=_number(memory, "GBps", f"{where}: mem1"),
        link=inner["link_gb_per_s_per_direction"],
        pcie=_number(host, "GBps", f"{where}: mem2"),
        gemm=_best(first, "gflops_efficiency", f"{where}: matrix"),
        stream=_best(memory, "MB_efficiency", f"{where}: mem1"),
        launch_us=LAUNCH_US,
        what="Calculon; kernel_launch_us and num_processors assumed",
    )


def _best(table: Tables, key: str, where: str) -> float:
    """The efficiency of the largest work in `[[size, efficiency], ...]`."""
    steps = table.get(key, [[0, 1]])
    place = f"{where}: {key}"
    if not isinstance(steps, list) or not steps:
        raise ParplanError(f"{place}: expected a list of pairs, got {steps!r}")
    for step in steps:
        if not isinstance(step, list) or len(step) != 2:
            raise ParplanError(f"{place}: expected a list of pairs, got {step!r}")
    sizes = [_number(dict(enumerate(step)), 0, place) for step in steps]
    return _number(dict(enumerate(steps[sizes.index(max(sizes))])), 1, place)


def from_simumax(table: Tables, where: str, asked: ConversionInputs) -> MachineTables:
    """A system file of SimuMax."""
    networks = _get(table, "networks", dict, where)
    per_node = _whole(table, "num_per_node", where)
    pcie = bool(networks.get("intra_with_pcie", False))
    inner = "intra_node_pcie_8x" if pcie else "high_intra_node"
    inside = _simumax_link(networks, inner, where, per=1)
    outside = _simumax_link(networks, "inter_node", where, per=per_node)
    notes = [
        f"networks.inter_node.bandwidth.gbps {outside.given:g}: of a whole node, so that each of "
        f"{per_node} accelerators has {outside.gb_per_s:.4g} GB/s",
        "networks.*.op: collectives are those of the fabric's class",
        "accelerator.op.*.accurate_efficient_factor: gemm_efficiency is the largest of matmul",
    ]
    if table.get("FC8"):
        notes.append("FC8: links of a node are a switch, whatever the size of the group")
    tier = {"name": "node", "fabric": "pcie" if pcie else "nvswitch"}
    network = {"name": "cluster", "fabric": "rail-fat-tree", "nics_per_node": per_node}
    return MachineTables(
        name=asked.name,
        accelerator=asked.accelerator or _simumax_chip(table, where, inside.gb_per_s),
        inside=({**tier, "link_gb_per_s_per_direction": inside.gb_per_s, **inside.rest},),
        network={**network, "nic_gb_per_s_per_direction": outside.gb_per_s, **outside.rest},
        per_node=per_node,
        num_nodes=asked.num_nodes,
        source=f"converted from the SimuMax system {asked.file}",
        notes=tuple(notes),
    )


class _Link(NamedTuple):
    given: float
    gb_per_s: float
    rest: dict[str, Any]


def _simumax_link(networks: Tables, name: str, where: str, per: int) -> _Link:
    network = _get(networks, name, dict, f"{where}: networks")
    place = f"{where}: networks.{name}.bandwidth"
    bandwidth = _get(network, "bandwidth", dict, f"{where}: networks.{name}")
    ops = network.get("op")
    reduce = ops.get("all_reduce") if isinstance(ops, Mapping) else None
    given_there = reduce.items() if isinstance(reduce, Mapping) else ()
    own = {**bandwidth, **{key: value for key, value in given_there if value is not None}}
    efficiency, latency = (_number(own, key, place) for key in ("efficient_factor", "latency_us"))
    given = _number(bandwidth, "gbps", place)
    rest: dict[str, Any] = {"latency_us": latency, "efficiency": min(1.0, efficiency)}
    rest["source"] = f"SimuMax: networks.{name}, latency and efficiency of all_reduce where given"
    return _Link(given, given * GIB_PER_GB / per, rest)


def _simumax_chip(table: Tables, where: str, link: float) -> dict[str, Any]:
    chip = _get(table, "accelerator", dict, where)
    ops = _get(chip, "op", dict, f"{where}: accelerator")
    product = ops.get("matmul") or _get(ops, "default", dict, f"{where}: accelerator.op")
    rate = _number(product, "tflops", f"{where}: accelerator.op.matmul")
    rates = {"fp16": rate, "bf16": rate}
    if "fp8_matmul" in ops:
        rates["fp8"] = _number(ops["fp8_matmul"], "tflops", f"{where}: accelerator.op.fp8_matmul")
    place = f"{where}: accelerator.op.matmul"
    measured = product.get("accurate_efficient_factor") or {}
    if not isinstance(measured, Mapping):
        raise ParplanError(f"{place}: accurate_efficient_factor: expected a table")
    found = [_number(measured, key, place) for key in measured]
    gemm = max([*found, _number({"efficient_factor": 1.0, **product}, "efficient_factor", place)])
    place = f"{where}: accelerator.bandwidth"
    memory = _get(_get(chip, "bandwidth", dict, f"{where}: accelerator"), "default", dict, place)
    return _chip(
        rates,
        gib=_number(chip, "mem_gbs", f"{where}: accelerator"),
        hbm=_number(memory, "gbps", f"{place}.default") * GIB_PER_GB,
        link=link,
        pcie=32.0,
        gemm=min(1.0, gemm),
        stream=_number(memory, "efficient_factor", f"{place}.default"),
        launch_us=_number({"latency_us": LAUNCH_US, **memory}, "latency_us", f"{place}.default"),
        what="SimuMax; pcie and num_processors assumed",
    )


def from_astra_sim(table: Tables, where: str, asked: ConversionInputs) -> MachineTables:
    """An analytical network of ASTRA-sim, with its system file or an accelerator's preset."""
    topology = _get(table, "topology", list, where)
    sizes, rates, latencies = (
        [_positive(v, f"{where}: {key}[{i}]") for i, v in enumerate(_get(table, key, list, where))]
        for key in ("npus_count", "bandwidth", "latency")
    )
    if not len(topology) == len(sizes) == len(rates) == len(latencies):
        raise ParplanError(f"{where}: topology, npus_count, bandwidth, latency: unequal lengths")
    if len(topology) == 1:
        # One dimension is a node; the network that joins several is not described.
        topology, sizes = [*topology, "Switch"], [*sizes, float(asked.num_nodes)]
        rates, latencies = [*rates, rates[0]], [*latencies, latencies[0]]
    tiers = [
        _astra_tier(*each, f"{where}: topology[{i}]", i)
        for i, each in enumerate(zip(topology, sizes, rates, latencies, strict=True))
    ]
    for i, tier in enumerate(tiers):
        tier["size"] = math.prod(int(size) for size in sizes[: i + 1])
    *inside, last = tiers
    notes = ["bandwidth: 1 GB is 2^30 bytes there"]
    num_nodes = int(sizes[-1])
    if len(table["topology"]) > 1 and set(topology) == {"Ring"}:
        inside, num_nodes = [_astra_torus(sizes, rates, latencies, notes)], 1
    elif topology[-1] != "Switch":
        notes.append(
            f"topology[{len(topology) - 1}] {topology[-1]}: between nodes there are switches alone "
            "here; taken as one with the bandwidth of an accelerator's links"
        )
    per_node = inside[-1]["size"]
    if len(table["topology"]) == 1:
        notes.append("topology: one dimension; the network between nodes is taken to be as fast")
    network = {
        "name": "cluster",
        "fabric": "rail-fat-tree",
        "nics_per_node": per_node,
        "nic_gb_per_s_per_direction": last["link_gb_per_s_per_direction"],
        **{key: last[key] for key in ("latency_us", "efficiency", "source")},
    }
    chip = asked.accelerator or _astra_chip(asked.system, where, inside[0], notes)
    return MachineTables(
        name=asked.name,
        accelerator=chip,
        inside=tuple(inside),
        network=network,
        per_node=per_node,
        num_nodes=num_nodes,
        source=f"converted from the ASTRA-sim network {asked.file}",
        notes=tuple(notes),
    )


def _astra_torus(
    sizes: Sequence[float], rates: Sequence[float], latencies: Sequence[float], notes: list[str]
) -> dict[str, Any]:
    """Rings of rings as one torus: two links of each dimension to every accelerator."""
    dims = [int(size) for size in sizes]
    if len(set(rates)) > 1 or len(set(latencies)) > 1:
        notes.append("bandwidth, latency: all dimensions of a torus are taken to have their mean")
    each = sum(rates) / len(rates) * GIB_PER_GB
    latency_ns = sum(latencies) / len(latencies)
    return {
        "name": "torus",
        "fabric": "torus",
        "size": math.prod(dims),
        "dims": dims,
        "link_gb_per_s_per_direction": 2 * len(dims) * each,
        "peer_gb_per_s_per_direction": each,
        "latency_us": latency_ns / 1e3,
        "efficiency": 1.0,
        "source": f"ASTRA-sim: rings of {' x '.join(map(str, dims))}, links of "
        f"{', '.join(f'{rate:g}' for rate in rates)} GB/s",
    }


def _astra_tier(
    kind: str, size: float, rate: float, latency_ns: float, where: str, number: int
) -> dict[str, Any]:
    """Tier of an accelerator's whole bandwidth.

    One link to a switch, two of a ring, one to each peer.
    """
    own = rate * GIB_PER_GB
    kinds: dict[str, tuple[str, float, dict[str, Any], int]] = {
        "Switch": ("nvswitch", own, {}, 2),
        "Ring": ("torus", 2 * own, {"peer_gb_per_s_per_direction": own, "dims": [int(size)]}, 1),
        "FullyConnected": (
            "nvlink-mesh",
            own * max(1, int(size) - 1),
            {"peer_gb_per_s_per_direction": own},
            1,
        ),
    }
    if not isinstance(kind, str) or kind not in kinds:
        raise ParplanError(f"{where}: {kind!r} is not one of {', '.join(kinds)}")
    fabric, link, more, hops = kinds[kind]
    if number and fabric == "torus":
        more = {}
    return {
        "name": "node" if number == 0 else f"tier {number + 1}",
        "fabric": fabric,
        "link_gb_per_s_per_direction": link,
        "latency_us": hops * latency_ns / 1e3,
        "efficiency": 1.0,
        "source": f"ASTRA-sim: {kind}, {hops} links of {rate:g} GB/s and {latency_ns:g} ns away",
        **more,
    }


def _astra_chip(
    system: Tables | None, where: str, inner: Tables, notes: list[str]
) -> dict[str, Any]:
    if system is None or "peak-perf" not in system:
        raise ParplanError(
            f"{where}: says nothing of the accelerator; give --accelerator NAME, or --system FILE "
            "with peak-perf and local-mem-bw"
        )
    rate = _number(system, "peak-perf", "system")
    notes.append("system: has no memory size; set memory_gb and usable_memory_mib to the device's")
    return _chip(
        {"fp16": rate, "bf16": rate},
        gib=80.0,
        hbm=_number(system, "local-mem-bw", "system"),
        link=inner["link_gb_per_s_per_direction"],
        pcie=32.0,
        gemm=1.0,
        stream=1.0,
        launch_us=0.0,
        what="ASTRA-sim system, a roofline; memory, pcie and num_processors assumed",
    )


def _chip(
    rates: Mapping[str, float],
    *,
    gib: float,
    hbm: float,
    link: float,
    pcie: float,
    gemm: float,
    stream: float,
    launch_us: float,
    what: str,
) -> dict[str, Any]:
    if not rates:
        raise ParplanError("the file has no rate of matrix products of a dtype that is known")
    return {
        "title": "A converted accelerator",
        "family": "converted",
        "num_processors": 1,
        "dense_tflop_per_s": dict(rates),
        "memory_gb": gib * GIB_PER_GB,
        "usable_memory_mib": gib * 1024,
        "hbm_gb_per_s": hbm,
        "link": "converted",
        "link_gb_per_s_per_direction": link,
        "pcie_gb_per_s_per_direction": pcie,
        "gemm_efficiency": gemm,
        "hbm_efficiency": stream,
        "kernel_launch_us": launch_us,
        "sources": dict.fromkeys(("rates", "memory", "link", "efficiency"), what),
    }


def _get(table: Tables, key: str, kind: type, where: str) -> Any:
    if not isinstance(table, Mapping) or not isinstance(table.get(key), kind):
        raise ParplanError(f"{where}: {key}: expected a {kind.__name__}")
    return table[key]


LARGEST = 1e15
"""No size or rate of a machine is larger, in the units of these files."""


def _number(table: Mapping[Any, Any], key: Any, where: str) -> float:
    if not isinstance(table, Mapping) or key not in table:
        raise ParplanError(f"{where}: missing key {key!r}")
    value = table[key]
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= LARGEST:
        raise ParplanError(f"{where}: {key}: expected a number, got {value!r}")
    return float(value)


def _whole(table: Tables, key: str, where: str) -> int:
    value = _number(table, key, where)
    if value < 1 or value != int(value):
        raise ParplanError(f"{where}: {key}: expected a whole number above 0, got {value!r}")
    return int(value)


def _positive(value: Any, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= LARGEST:
        raise ParplanError(f"{where}: expected a positive number, got {value!r}")
    return float(value)


CONVERTERS: dict[str, Callable[[Tables, str, ConversionInputs], MachineTables]] = {
    "calculon": from_calculon,
    "simumax": from_simumax,
    "astra-sim": from_astra_sim,
}
"""By the program whose files they are."""
