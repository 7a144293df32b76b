"""`parplan models`: the models that are known by name."""

import argparse
import json

from parplan.experiments.output.tables import columns
from parplan.sim.models.model import Model, model_presets
from parplan.sim.models.parts import has_experts


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `parplan models`."""
    parser.add_argument("--json", action="store_true", help="as JSON, a table for each model")


def run(args: argparse.Namespace) -> int:
    """Print the table."""
    presets = model_presets()
    if args.json:
        print(json.dumps({name: _table(model) for name, model in presets.items()}, indent=2))
        return 0
    rows = [["name", "parameters", "active", "layers", "hidden", "heads", "KV heads", "experts"]]
    rows += [_row(name, model) for name, model in presets.items()]
    print(columns(rows))
    return 0


def _table(model: Model) -> dict[str, int]:
    return {
        "num_parameters": model.num_parameters,
        "num_active_parameters": _active(model),
        "num_layers": model.num_layers,
        "hidden_size": model.hidden_size,
        "num_heads": model.num_heads,
        "num_kv_heads": model.num_kv_heads,
        "num_experts": 0 if model.moe is None else model.moe.num_experts,
    }


def _row(name: str, model: Model) -> list[str]:
    numbers = list(_table(model).values())
    return [name, *map(_count, numbers[:2]), *map(str, numbers[2:-1]), str(numbers[-1] or "")]


def _count(parameters: int) -> str:
    """Three digits, in millions, billions or trillions."""
    size, unit = next(
        (size, unit)
        for size, unit in ((1e12, "T"), (1e9, "B"), (1e6, "M"))
        if parameters >= 0.9995 * size or size == 1e6
    )
    return f"{parameters / size:.3g} {unit}"


def _active(model: Model) -> int:
    """Parameters that a token meets: all but those of experts that it is not sent to."""
    if model.moe is None:
        return model.num_parameters
    missed = model.moe.num_experts - model.moe.top_k
    layers = sum(has_experts(kind) for kind in model.layer_kinds)
    return model.num_parameters - layers * missed * model.mlp_matrix_parameters(model.moe.ffn_size)
