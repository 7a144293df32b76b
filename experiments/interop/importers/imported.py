"""Imported configurations as plans with workloads."""

import difflib
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from parplan._strict import build, parse_json
from parplan.errors import ParplanError
from parplan.sim.models.model import Model
from parplan.sim.plan import Plan
from parplan.sim.software.presets import DEFAULT_SOFTWARE, workload_fields
from parplan.sim.workload import Workload


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """Settings given beside the configuration; None where the configuration has to state them."""

    devices: int | None = None
    model: Model | None = None
    seq_len: int | None = None
    global_batch: int | None = None
    micro_batch: int | None = None
    vocab_size: int | None = None
    variables: Mapping[str, str] = field(default_factory=dict)
    """Of a launch script."""


@dataclass(slots=True, kw_only=True)
class ImportedSettings:
    """The settings read so far."""

    devices: int | None = None
    model: Model | None = None
    seq_len: int | None = None
    global_batch: int | None = None
    plan: dict[str, Any] = field(default_factory=dict)
    """Fields of `Plan`, without those that follow from the devices and the batch."""
    copies: int = 1
    """Of what is sharded: the replicas are split into so many groups."""
    software: str = DEFAULT_SOFTWARE
    """The named software that the configuration is for."""
    workload: dict[str, Any] = field(default_factory=dict)
    """Other fields of `Workload`, which go over those of the software."""
    notes: list[str] = field(default_factory=list)
    """What was understood otherwise, or not at all: `setting: what became of it`."""
    no_effect: dict[str, str] = field(default_factory=dict)
    """Settings without effect on the time or the memory of a step, and why."""
    not_understood: dict[str, str] = field(default_factory=dict)
    """Settings that are not known or not modelled, and what is assumed instead."""

    def misread(self, setting: str, what: str) -> None:
        """Add a setting that was not understood."""
        self.not_understood[setting] = what
        self.note(setting, what if what.startswith("not ") else f"not understood: {what}")

    def note(self, setting: str, what: str) -> None:
        """Add a line."""
        self.notes.append(f"{setting}: {what}")


Importer = Callable[[str, str, Given], ImportedSettings]
"""(text of the file, its name, what is given beside it) -> what it asks for."""


def finished(
    settings: ImportedSettings,
    given: Given,
    changed: Mapping[str, str],
    where: str,
    unsaid: Mapping[str, Any] | None = None,
) -> tuple[Plan, Workload]:
    """The plan, with the degrees and batches that follow, and its workload.

    `changed`: fields of the plan that the user sets, as JSON. `unsaid`: fields of the workload that
    the configuration says nothing of; None: those of the software that it is for.

    Raises `ParplanError` for what is missing and for what does not divide.
    """
    fields = dict(settings.plan)
    for name, text in changed.items():
        if name not in Plan.__dataclass_fields__ or name in ("data_parallel", "num_micro_batches"):
            raise ParplanError(f"--set {name}: not a field of a plan that can be set")
        try:
            fields[name] = parse_json(text, name)
        except ParplanError:
            fields[name] = text
    _take(settings, given)
    model = _needed(settings.model, where, "the model", "--model")
    devices = _needed(settings.devices, where, "the number of accelerators", "--cluster")
    seq_len = _needed(settings.seq_len, where, "the length of sequences", "--seq-len")
    fields.setdefault("batch_per_device", given.micro_batch or 1)
    micro = _positive(fields, "batch_per_device", where)
    fields["data_parallel"] = data = _data_parallel(fields, devices, where)
    batch = settings.global_batch or data * micro
    if batch % (data * micro):
        raise ParplanError(
            f"{where}: a global batch of {batch} does not divide over {data} data-parallel ranks "
            f"with micro-batches of {micro}"
        )
    if settings.copies > 1 and "shard_group" not in fields:
        replicas = data * int(fields.get("context_parallel", 1))
        fields["shard_group"] = _shared(replicas, settings.copies, where)
    fields["num_micro_batches"] = batch // (data * micro)
    workload = Workload(
        model=model,
        seq_len=seq_len,
        global_batch=batch,
        **{**(unsaid or workload_fields(settings.software)), **settings.workload},
    )
    return build(Plan, fields, f"{where}: plan"), workload


def report_unread(
    settings: ImportedSettings,
    given: Iterable[str],
    known: Iterable[str],
    no_effect: Mapping[str, str],
    prefix: str = "",
) -> None:
    """Say of every setting that is not read whether it has no effect or is not understood."""
    known = set(known)
    for name in given:
        shown = f"{prefix}{name}"
        if name in known:
            continue
        if name in no_effect:
            settings.no_effect[shown] = no_effect[name]
            continue
        near = difflib.get_close_matches(name.lower(), [*known, *no_effect], n=1, cutoff=0.75)
        hint = f"; did you mean {prefix}{near[0]}?" if near else ""
        settings.misread(shown, f"not a setting that is known here{hint}")


def _positive(fields: Mapping[str, Any], name: str, where: str) -> int:
    value = fields.get(name, 1)
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ParplanError(f"{where}: {name}: expected a positive number, got {value!r}")
    return value


def _data_parallel(fields: Mapping[str, Any], devices: int, where: str) -> int:
    """Accelerators divided by the other degrees."""
    names = ("tensor_parallel", "num_stages", "context_parallel")
    degrees = {name: _positive(fields, name, where) for name in names}
    product = math.prod(degrees.values())
    if devices % product:
        said = " x ".join(f"{name} {degree}" for name, degree in degrees.items())
        raise ParplanError(f"{where}: {said} = {product} does not divide {devices} accelerators")
    return devices // product


def _shared(replicas: int, copies: int, where: str) -> int:
    if replicas % copies:
        raise ParplanError(f"{where}: {replicas} replicas do not divide into {copies} groups")
    return replicas // copies


def _take(settings: ImportedSettings, given: Given) -> None:
    """Set the values that the user gives, which override those read from the file."""
    for name in ("model", "seq_len", "global_batch", "devices"):
        value = getattr(given, name)
        read = getattr(settings, name)
        if value is None:
            continue
        if name == "devices" and read is not None and read != value:
            settings.note("processes", f"{read} are started; the cluster has {value}, which counts")
        setattr(settings, name, value)


def _needed(value: Any, where: str, what: str, option: str) -> Any:
    if value is None:
        raise ParplanError(f"{where}: does not say {what}; give {option}")
    return value
