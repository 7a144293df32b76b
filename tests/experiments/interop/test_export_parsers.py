"""Exported files in the parsers of the software itself, where that is installed."""

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.experiments.interop.interop_cases import CASES
from tests.experiments.interop.test_export import GOLDEN

EXTRA = "in the extra `targets`: pip install parplan[targets]"
"""Why a parser may be missing: its package is large, and no part of a development environment."""


def files(name: str) -> list[Path]:
    found = sorted(GOLDEN.glob(f"*/*/{name}"))
    assert found
    return found


def test_accelerate_reads_its_yaml() -> None:
    config = pytest.importorskip("accelerate.commands.config.config_args")
    launch = pytest.importorskip("accelerate.commands.launch")
    for path in files("accelerate.yaml"):
        plan = CASES[path.parts[-3]][0]
        assert config.load_config_from_file(str(path)).num_processes == plan.num_devices
        parser = launch.launch_command_parser()
        args = parser.parse_args(["--config_file", str(path), "train.py"])
        args, _, _ = launch._validate_launch_command(args)
        assert args.use_fsdp
        assert args.fsdp_reshard_after_forward == (plan.zero_stage == 3)
        assert args.parallelism_config_tp_size == plan.tensor_parallel


def test_transformers_knows_its_arguments() -> None:
    """Names and values, without the arguments of `from_pretrained`."""
    arguments = pytest.importorskip("transformers.training_args")
    yaml = pytest.importorskip("yaml")
    known = {field.name for field in dataclasses.fields(arguments.TrainingArguments)}
    for path in files("training_arguments.yaml"):
        plan = CASES[path.parts[-3]][0]
        table = yaml.safe_load(path.read_text())
        assert set(table) - known == {"attn_implementation"}
        assert table["optim"] in {optimizer.value for optimizer in arguments.OptimizerNames}
        assert table["per_device_train_batch_size"] == plan.batch_per_device
        assert table["gradient_accumulation_steps"] == plan.num_micro_batches
        assert (path.parent / table["deepspeed"]).exists()
        # The engine's file needs the engine: see below.
        rest = {k: v for k, v in table.items() if k not in ("attn_implementation", "deepspeed")}
        made = arguments.TrainingArguments(**{"output_dir": "out", "use_cpu": True} | rest)
        assert made.per_device_train_batch_size == plan.batch_per_device
        assert made.bf16 == (CASES[path.parts[-3]][1].precision in ("bf16", "fp8"))


def test_deepspeed_reads_its_json(monkeypatch: pytest.MonkeyPatch) -> None:
    config = pytest.importorskip("deepspeed.runtime.config", reason=EXTRA)
    for path in files("deepspeed.json"):
        plan = CASES[path.parts[-3]][0]
        own = {"get_rank": lambda *_: 0, "is_initialized": lambda: True}
        for name, function in own.items():
            monkeypatch.setattr(config.dist, name, function)
        monkeypatch.setattr(config.dist, "get_world_size", lambda *_, d=plan.data_parallel: d)
        mpu = SimpleNamespace(
            get_data_parallel_world_size=lambda d=plan.data_parallel: d,
            get_model_parallel_world_size=lambda: 1,
        )
        found = config.DeepSpeedConfig(json.loads(path.read_text()), mpu=mpu)
        assert found.zero_config.stage == plan.zero_stage
        assert found.gradient_accumulation_steps == plan.num_micro_batches


def test_torchtitan_reads_its_toml() -> None:
    """Of versions that read TOML, up to 0.2."""
    pytest.importorskip("torchtitan.config.job_config", reason=EXTRA)
    config = pytest.importorskip("torchtitan.config")
    for path in files("torchtitan.toml"):
        plan = CASES[path.parts[-3]][0]
        found = config.ConfigManager().parse_args(["--job.config_file", str(path)]).parallelism
        assert found.tensor_parallel_degree == plan.tensor_parallel
        assert len(found.module_fqns_per_model_part or [0]) == plan.total_stages
