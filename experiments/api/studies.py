"""`parplan.landscape`, `import_launch`, `export` and `validate`: as the commands of these names."""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from parplan._checked import value_of
from parplan._strict import read_text
from parplan.errors import ParplanError, short, unknown_name
from parplan.experiments.api.inputs import (
    PathLike,
    arguments,
    cluster,
    in_python,
    job,
    path_of,
    plan_for,
)
from parplan.experiments.arguments.dask import check_workers
from parplan.experiments.commands.predict import export as export_command
from parplan.experiments.commands.predict import import_ as import_command
from parplan.experiments.commands.predict import landscape as landscape_command
from parplan.experiments.interop.exporters.exported import Exported
from parplan.experiments.interop.reading.sources import SOURCES
from parplan.experiments.landscape.cells import Cell
from parplan.experiments.landscape.figure import Landscape, heat_maps, slices
from parplan.hardware.network.cluster import Cluster
from parplan.sim.models.find import find_model
from parplan.sim.models.model import Model
from parplan.sim.plan import Plan
from parplan.sim.workload import Workload

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from parplan.experiments.cases.evaluate import Outcome


@dataclass(frozen=True, kw_only=True)
class LandscapeResult:
    """A metric over fields; printed, it is the summary of `parplan landscape`."""

    land: Landscape

    @property
    def cells(self) -> Sequence[Cell]:
        """A cell for each combination of values: verdict, plan, memory and metrics."""
        return self.land.cells

    @property
    def best(self) -> Cell | None:
        """The best cell; None where nothing fits in any."""
        return self.land.best

    def to_frame(self) -> "pd.DataFrame":
        """The cells as a table, with the columns of `landscape.csv`."""
        import pandas as pd

        return pd.DataFrame([landscape_command.cell_row(cell, self.land) for cell in self.cells])

    def figure(self) -> "Figure":
        """Heat maps over two fields, curves over one (matplotlib)."""
        return slices(self.land) if self.land.y is None else heat_maps(self.land)

    def __str__(self) -> str:
        return "\n".join(landscape_command.summary(self.land))

    def __repr__(self) -> str:
        return f"<Landscape: {self.land.title}: {len(self.cells)} cells>"


@in_python
def landscape(
    workload: Workload,
    cluster: Cluster | PathLike,
    *,
    x: str,
    y: str | None = None,
    metric: str = "step-time",
    around: Plan | PathLike | None = None,
    **options: Any,
) -> LandscapeResult:
    """Evaluate a metric over one or two fields, as `parplan landscape` does.

    `x`, `y`: fields with their values, as `"num_stages=1,2,4"` or `"num_stages"`. `around`: a plan
    whose other fields are kept (default: the fastest plan of each cell). `options`: those of the
    command by name. Nothing is written. Raises `ParplanError` for what cannot be asked.
    """
    given = {"x": x, "y": y, "metric": metric, "workers": 1, **options}
    for name in ("x", "y", "panels"):
        field = given.get(name)
        if (isinstance(field, str) and not field) or (name == "x" and x is None):
            raise ParplanError(
                f"{name}: expected a field, as in num_stages=1,2,4; got {short(given[name])}"
            )
    args = arguments("landscape", given, hidden=("around",))
    own_workload, machine = job(workload, cluster)
    kept = None if around is None else plan_for(around, own_workload, machine)
    check_workers(args)
    request = landscape_command.request_of(args, kept, own_workload, machine)
    landscape_command.check_request(request, args.metric)
    with tempfile.TemporaryDirectory() as folder:
        journal = Path(folder) / landscape_command.JOURNAL
        return LandscapeResult(land=landscape_command.landscape_of(request, args, journal))


@in_python
def import_launch(
    file: PathLike,
    source: str,
    on: Cluster | PathLike,
    *,
    model: Model | PathLike | None = None,
    set: Mapping[str, Any] | None = None,
    variable: Mapping[str, Any] | None = None,
    **options: Any,
) -> import_command.ImportedLaunch:
    """Predict a launch of other software on a cluster, as `parplan import` does.

    `file`: a launch script, JSON, TOML, YAML or Python. `source`: as for `--from`. `model`: where
    the file does not describe it. `set`: fields of the plan that the program sets itself;
    `variable`: those of a launch script. `options`: those of the command by name, as
    `global_batch=64`. Raises `ParplanError` for what is missing or cannot be read.
    """
    if not isinstance(source, str) or source not in SOURCES:
        raise unknown_name("source", source if isinstance(source, str) else short(source), SOURCES)
    batch = {k: options.pop(k) for k in ("seq_len", "global_batch") if k in options}
    hidden = ("file", "source", "set", "variable")
    software = options.pop("software", None)
    args = arguments("import", options, hidden=hidden)
    args.source = source
    args.software = None if software is None else value_of(str, software, "software")
    args.seq_len = args.global_batch = None
    for name, value in batch.items():
        setattr(args, name, None if value is None else _whole(name, value))
    args.set, args.variable = _pairs("set", set), _pairs("variable", variable)
    args.model = None if model is None else find_model(model)
    path, machine = path_of("file", file), cluster(on)
    return import_command.imported(args, read_text(path), str(path), machine)


def _whole(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ParplanError(f"{name}: expected a whole number, got {short(value)}")
    return value


def _pairs(name: str, given: object) -> list[str]:
    if given is None:
        return []
    if not isinstance(given, Mapping):
        raise ParplanError(f"{name}: expected names with values, as in a dict, got {short(given)}")
    return [f"{key}={value}" for key, value in given.items()]


@in_python
def export(
    workload: Workload,
    cluster: Cluster | PathLike,
    plan: Plan | PathLike,
    to: str,
) -> Exported:
    """A plan as the configuration of the software that trains, as `parplan export` writes it.

    `to`: megatron, megatron-bridge, deepspeed, torchtitan or accelerate. Returns `files`, text by
    name, and `unsaid`, what these words cannot express. Raises `ParplanError` for a plan that the
    target cannot run.
    """
    own_workload, machine = job(workload, cluster)
    own_plan = plan_for(plan, own_workload, machine)
    if not isinstance(to, str):
        raise ParplanError(f"to: expected a name, got {short(to)}")
    return export_command.exported(own_plan, own_workload, machine, to, "plan")


@dataclass(frozen=True, kw_only=True)
class ValidationResult:
    """Predictions beside what others measured; printed, the table of `parplan validate`."""

    outcomes: "Sequence[Outcome]"

    def to_frame(self) -> "pd.DataFrame":
        """The runs as a table, with the columns of `predictions.csv`."""
        import pandas as pd

        from parplan.experiments.accuracy.table import row

        return pd.DataFrame([row(outcome) for outcome in self.outcomes])

    def __str__(self) -> str:
        from parplan.experiments.accuracy.table import summary

        return summary(self.outcomes)

    def __repr__(self) -> str:
        return f"<Validation: {len(self.outcomes)} runs>"


@in_python
def validate(
    *files: PathLike, group: Sequence[str] | str | None = None, jobs: int = 1
) -> ValidationResult:
    """Predict runs that others measured, as `parplan validate` does.

    `files`: runs, one JSON object per line (default: the shipped validation file). `group`: the
    sources of runs, all if None. `jobs`: processes at most. Raises `ParplanError` for a file that
    cannot be read and for a source that it does not have.
    """
    from parplan.experiments.api.inputs import number_of
    from parplan.experiments.cases.stack import check_stacks
    from parplan.experiments.commands.study.validate import SHIPPED, chosen_cases, evaluated

    groups = [group] if isinstance(group, str) else group
    known = groups is None or isinstance(groups, list | tuple)
    if not known or not all(isinstance(name, str) for name in groups or ()):
        raise ParplanError(f"group: expected names of sources, got {short(group)}")
    number_of("jobs", jobs)
    check_stacks()
    paths = [path_of("file", file) for file in files] or [SHIPPED]
    outcomes, is_whole = evaluated(chosen_cases(paths, groups), jobs, None)
    if not is_whole:
        raise KeyboardInterrupt
    return ValidationResult(outcomes=outcomes)
