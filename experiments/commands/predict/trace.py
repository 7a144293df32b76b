"""`parplan trace`: what a model's layers need, found without running or allocating them."""

import argparse
import dataclasses
import json
import re
import resource
import shlex
import sys
import time
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from parplan._files import write_whole
from parplan.backend.require import require_torch
from parplan.errors import ParplanError
from parplan.sim.layers.blocks import block_ops, embedding_ops, head_ops
from parplan.sim.layers.ops import all_bytes
from parplan.sim.layers.shapes import shapes_of
from parplan.sim.memory.peak import GB
from parplan.sim.models.find import find_model
from parplan.sim.models.model import Model
from parplan.sim.models.scaled_down import scaled_down
from parplan.sim.plan import Plan
from parplan.sim.software.framework import NO_OVERHEAD
from parplan.sim.workload import Workload

if TYPE_CHECKING:
    from parplan.backend.models.trace import ChainTrace, LayerTrace

COLUMNS = ("layers", "parameters", "forward GFLOP", "backward GFLOP", "saved MB", "output MB")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `parplan trace`."""
    parser.add_argument(
        "model",
        help="a preset such as llama2-7b or a TOML file with a model table (parplan's own layers), "
        "the config.json of a Hugging Face model (its layers; needs transformers), "
        "module:function that returns (model, inputs, targets), or a training script (.py), which "
        "runs up to its first step and gives a model file that parplan plan takes",
    )
    parser.add_argument(
        "--seq-len", type=int, default=1024, help="sequence length in tokens (default %(default)s)"
    )
    parser.add_argument(
        "--batch", type=int, default=1, help="sequences per batch (default %(default)s)"
    )
    parser.add_argument(
        "--precision",
        choices=("bf16", "fp16", "fp32"),
        default="bf16",
        help="parameter type (default bf16)",
    )
    parser.add_argument(
        "--scale",
        type=int,
        default=1,
        metavar="N",
        help="scale the model down, as in parplan execute",
    )
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="FILE",
        help="model file of a training script (default: its name and .toml, here)",
    )
    parser.add_argument(
        "--arguments",
        dest="script_arguments",
        nargs=argparse.REMAINDER,
        default=[],
        metavar="...",
        help="everything after it goes to the training script",
    )
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="also write every layer to this file"
    )


def run(args: argparse.Namespace) -> int:
    """Trace, print, write."""
    if args.batch < 1:
        raise ParplanError(f"--batch: must be at least 1, got {args.batch}")
    require_torch("tracing models")
    if args.model.endswith(".py"):
        return _run_script(args)
    for given, name in ((args.script_arguments, "--arguments"), (args.output, "--output")):
        if given:
            raise ParplanError(f"{name}: of a training script (.py) alone, got {args.model}")
    workload = _workload(args)
    # Only now, so that mistakes are told soon and the time is that of tracing.
    from parplan.backend.models.traced_models import trace_config, trace_function, trace_workload

    start_s = time.perf_counter()
    if workload is None:
        trace = trace_function(args.model)
    elif args.model.endswith(".json"):
        trace = trace_config(args.model, workload, args.batch)
    else:
        trace = trace_workload(workload, args.batch)
    seconds = time.perf_counter() - start_s
    print("\n".join(table(trace)))
    if workload is not None:
        print(compared(trace, workload, args.batch))
    weights = sum(layer.parameter_bytes for layer in trace.layers)
    _note(
        f"traced in {seconds:.1f} s; {_resident_bytes() / GB:.2f} GB resident with torch, of which "
        f"none are the {weights / GB:.2f} GB of the model's weights"
    )
    if args.json is not None:
        write_whole(args.json, _json(trace).encode())
        _note(f"layers: {args.json}")
    return 0


def _run_script(args: argparse.Namespace) -> int:
    """The architecture of the model that a training script trains, as a model file."""
    from parplan.backend.cutting.caught_call import caught_in_script
    from parplan.backend.cutting.described import describe, model_table

    script = Path(args.model)
    output = args.output or Path(f"{script.stem}.toml")
    caught = caught_in_script(script, args.script_arguments)
    name = re.sub(r"[^A-Za-z0-9_-]", "-", output.stem)
    found = describe(caught.model, caught.call, name, f"traced in {script.name}")
    table = model_table(found.model)
    write_whole(output, table.encode())
    print(table, end="")
    print(
        f"{found.parameters:,} parameters, of which the description counts "
        f"{found.model.num_parameters:,} ({found.difference:+.2%})"
    )
    print(
        f"next: parplan plan {shlex.quote(str(output))} --cluster 8xh100 --seq-len {found.seq_len} "
        f"--global-batch {found.batch} --precision {caught.precision}"
    )
    return 0


def _workload(args: argparse.Namespace) -> Workload | None:
    """None for a function, of which nothing is known before it is called."""
    if ":" in args.model:
        return None
    model: Model = scaled_down(find_model(args.model), args.scale)
    if args.scale > 1 and args.model.endswith(".json"):
        raise ParplanError("--scale: not for a config.json; write the sizes into it")
    return Workload(
        model=model,
        seq_len=args.seq_len,
        global_batch=args.batch,
        precision=args.precision,
        framework=NO_OVERHEAD,
    )


def table(trace: "ChainTrace") -> Iterator[str]:
    """Runs of equal layers, one line each, then their sums."""
    rows: list[list[str]] = []
    for layer, run_of in groupby(trace.layers):
        count = len(list(run_of))
        rows.append([f"{count} x {layer.kind}", *_cells(layer)])
    yield from _aligned([list(COLUMNS), *rows])
    yield (
        f"all: {trace.parameters:,} parameters, {trace.flops / 1e12:.4g} TFLOP and "
        f"{trace.saved_bytes / GB:.3f} GB saved for inputs of shape {list(trace.input_shape)}"
    )


def _cells(layer: "LayerTrace") -> list[str]:
    return [
        f"{layer.parameters:,}",
        f"{layer.forward_flops / 1e9:.4g}",
        f"{layer.backward_flops / 1e9:.4g}",
        f"{layer.saved_bytes / 1e6:.4g}",
        f"{layer.output_bytes / 1e6:.4g}",
    ]


def _aligned(rows: list[list[str]]) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for first, *rest in rows:
        cells = [f"{cell:>{width}}" for cell, width in zip(rest, widths[1:], strict=True)]
        yield "  ".join([f"{first:{widths[0]}}", *cells])


def compared(trace: "ChainTrace", workload: Workload, batch: int) -> str:
    """The same sums by the analytical model, and how far the trace is from them."""
    fused, eager = (analytical_bytes(workload, batch, fused=f) for f in (True, False))
    flops = workload.model_flops
    return (
        f"analytical model: {workload.model.num_parameters:,} parameters "
        f"({_off(trace.parameters, workload.model.num_parameters)}), {flops / 1e12:.4g} TFLOP "
        f"({_off(trace.flops, flops)}), saved {fused / GB:.3f} GB with fused kernels "
        f"({_off(trace.saved_bytes, fused)}), {eager / GB:.3f} GB with eager ones "
        f"({_off(trace.saved_bytes, eager)})"
    )


def analytical_bytes(workload: Workload, batch: int, *, fused: bool) -> float:
    """Bytes that the layers of `workload` keep for the backward of one micro-batch.

    As the simulator counts them, with fused or with eager normalisations, elementwise operations
    and loss.
    """
    given = dataclasses.replace(
        workload, fused_norms=fused, fused_elementwise=fused, fused_loss=fused
    )
    x = shapes_of(given, Plan(batch_per_device=batch))
    ends = all_bytes(embedding_ops(x)) + all_bytes(head_ops(x))
    return ends + sum(all_bytes(block_ops(x, kind)) for kind in workload.model.layer_kinds)


def _off(found: float, expected: float) -> str:
    return "equal" if found == expected else f"traced {found / expected - 1:+.1%}"


def _resident_bytes() -> float:
    """The largest so far; Linux counts in KiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024.0


def _json(trace: "ChainTrace") -> str:
    found: dict[str, Any] = dataclasses.asdict(trace)
    return json.dumps(found, indent=1) + "\n"


def _note(line: str) -> None:
    print(f"parplan: {line}", file=sys.stderr, flush=True)
