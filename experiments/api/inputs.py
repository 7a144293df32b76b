"""Check and convert the arguments of the public functions: names, paths and values."""

import argparse
import contextlib
import functools
import os
import re
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from parplan._checked import value_of
from parplan.errors import ParplanError, short, unknown_name
from parplan.experiments.arguments.workload import requested_cluster, workload_on
from parplan.experiments.cases.own.machine_factors import MachineFactors, with_factors
from parplan.experiments.cli import make_parser
from parplan.hardware.network.cluster import Cluster
from parplan.sim.models.find import find_model
from parplan.sim.models.model import Model
from parplan.sim.plan import Plan
from parplan.sim.plan_file import read_plan
from parplan.sim.workload import Workload

P = ParamSpec("P")
T = TypeVar("T")
PathLike = str | os.PathLike[str]

NOT_OPTIONS = (
    *("help", "argv", "command", "output", "report", "force", "model", "cluster", "profile"),
    *("seq_len", "global_batch", "no_mixed_precision", "tf32", "attention"),
    *("software", "precision", "optimizer"),
)
"""Arguments of commands that functions have in another form."""


def in_python(function: Callable[P, T]) -> Callable[P, T]:
    """The function, with options in its errors as Python spells them.

    `--memory-ratio` becomes `memory_ratio`.
    """

    @functools.wraps(function)
    def called(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return function(*args, **kwargs)
        except ParplanError as error:
            raise type(error)(_without_dashes(str(error))) from error.__cause__
        except TypeError as error:
            # A call that does not fit the signature fails before the first line of the function.
            if error.__traceback__ is not None and error.__traceback__.tb_next is None:
                raise ParplanError(f"{function.__module__.split('.')[0]}.{error}") from None
            raise

    return called


def _without_dashes(text: str) -> str:
    return re.sub(r"(?<![\w-])--([a-z][a-z-]*)", lambda m: m[1].replace("-", "_"), text)


@in_python
def cluster(given: Cluster | PathLike) -> Cluster:
    """A cluster: a preset such as `8xh100`, a TOML file, or the profile of a machine.

    `here`: the machine of `profile.json`. Raises `ParplanError` for an unknown name with near ones.
    """
    if isinstance(given, Cluster):
        return given
    return requested_cluster(_words("cluster", given, "a preset such as 8xh100, a TOML file"))


@in_python
def model(given: Model | PathLike) -> Model:
    """A model: a preset such as `llama3-8b`, a TOML file, or a `config.json` of Hugging Face.

    Raises `ParplanError` for an unknown name with near ones.
    """
    return find_model(given)


def job(workload: Workload, on: Cluster | PathLike) -> tuple[Workload, Cluster]:
    """A workload and the cluster it is for, with the constants of software that are meant there."""
    if not isinstance(workload, Workload):
        raise ParplanError(
            "workload: expected a parplan.Workload, such as Workload('llama3-8b', seq_len=4096, "
            f"global_batch=32), got {_short(workload)}"
        )
    machine = with_factors(cluster(on), MachineFactors())
    return workload_on(workload, machine), machine


def plan_for(given: Plan | PathLike, workload: Workload, machine: Cluster) -> Plan:
    """A plan or a plan file, whose degrees are completed.

    Where `data_parallel` is 1 and accelerators are left over, replicas take them; where
    `num_micro_batches` is 1, it becomes what the batch needs. A plan that says otherwise is not
    changed.
    """
    if not isinstance(given, Plan):
        given = read_plan(Path(_words("plan", given, "a parplan.Plan or a plan.json")))[0]
    fields = given.to_json()
    spare, rest = divmod(machine.num_accelerators, given.num_devices)
    if given.data_parallel == 1 and not rest and spare > 1:
        fields["data_parallel"] = spare
    steps, rest = divmod(workload.global_batch, fields["data_parallel"] * given.batch_per_device)
    if given.num_micro_batches == 1 and not rest and steps > 1:
        fields["num_micro_batches"] = steps
    return Plan(**fields)


def path_of(name: str, given: object) -> Path:
    """A path; raises `ParplanError` for anything else."""
    return Path(_words(name, given, "a path"))


def number_of(name: str, given: object, least: int = 1) -> int:
    """A whole number, at least `least`; raises `ParplanError` for anything else."""
    found: int = value_of(int, given, name)
    if found < least:
        raise ParplanError(f"{name}: must be at least {least}, got {found}")
    return found


def _words(name: str, given: object, allowed: str) -> str:
    if isinstance(given, str | os.PathLike):
        with contextlib.suppress(TypeError):
            return os.fsdecode(os.fspath(given))
    raise ParplanError(f"{name}: expected {allowed}, got {_short(given)}")


def _short(value: object) -> str:
    return short(value, 80)


@cache
def _actions(command: str) -> dict[str, argparse.Action]:
    """The arguments of a command, by name."""
    commands = next(
        action
        for action in make_parser(command)._actions
        if isinstance(action, argparse._SubParsersAction)
    )
    return {action.dest: action for action in commands.choices[command]._actions}


def options_of(command: str) -> list[str]:
    """The options that a function shares with the command: `memory_ratio` is `--memory-ratio`."""
    return [_name(action) for name, action in _actions(command).items() if name not in NOT_OPTIONS]


def _name(action: argparse.Action) -> str:
    longest = max(action.option_strings, key=len, default=action.dest)
    return longest.lstrip("-").replace("-", "_")


def arguments(
    command: str, options: Mapping[str, Any], hidden: Sequence[str] = (), **values: Any
) -> argparse.Namespace:
    """The arguments of a command, from options by name.

    `values`: arguments that the function fills in itself; `hidden`: those it does not offer. Raises
    `ParplanError` for an option that the command does not have, and for a wrong value.
    """
    actions = _actions(command)
    named = {
        _name(action): action
        for dest, action in actions.items()
        if dest not in (*NOT_OPTIONS, *hidden, *values)
    }
    found = {name: action.default for name, action in actions.items() if name != "help"}
    for name, value in options.items():
        if name not in named:
            raise unknown_name(f"option of parplan.{command.replace('-', '_')}", name, named)
        if value is not None:
            found[named[name].dest] = _value(named[name], name, value)
    return argparse.Namespace(**{**found, "argv": [], "command": command, **values})


def _value(action: argparse.Action, name: str, value: Any) -> Any:
    if action.nargs == 0:
        return value_of(bool, value, name)
    if action.nargs in ("+", "*"):
        if isinstance(value, str) or not isinstance(value, Sequence):
            raise ParplanError(f"{name}: expected a list, got {_short(value)}")
        return [_one(action, f"{name}[{i}]", item) for i, item in enumerate(value)]
    return _one(action, name, value)


def _one(action: argparse.Action, name: str, value: Any) -> Any:
    kind = action.type
    if kind in (int, float):
        found = value_of(kind, value, name)
    elif kind is Path:
        return path_of(name, value)
    elif kind is None:
        if isinstance(value, int | float) and not isinstance(value, bool):
            value = str(value)
        found = value_of(str, value, name)
    else:
        found = _parsed(kind, name, value)
    if action.choices is not None and found not in action.choices:
        if isinstance(found, str):
            raise unknown_name(name, found, map(str, action.choices))
        allowed = ", ".join(map(str, action.choices))
        raise ParplanError(f"{name}: expected one of {allowed}, got {short(found)}")
    return found


def _parsed(kind: Any, name: str, value: Any) -> Any:
    """A value that the command reads from a word by a function of its own."""
    if not isinstance(value, str | bool | int | float | os.PathLike):
        raise ParplanError(f"{name}: got {_short(value)}")
    try:
        return kind(_words(name, value, "a path") if isinstance(value, os.PathLike) else str(value))
    except argparse.ArgumentTypeError as error:
        raise ParplanError(f"{name}: {error}") from None
