"""Why a space is empty, and the nearest changes of the job or the constraints that help."""

from dataclasses import replace

from parplan.errors import ParplanError
from parplan.hardware.network.cluster import Cluster
from parplan.planners.spaces.constraints import Constraints, text
from parplan.planners.spaces.layouts import JobSizes, groups, sizes_of
from parplan.sim.workload import Workload

SWITCHES = ("unequal_chunks", "tensor_parallel_across_nodes")
"""Keys that allow more where they are true."""

MOST_VALUES = 12
"""Possible values that a message names."""

MOST_BATCHES = 5000
"""Batches above and below the given one that are tried."""


def why_empty(workload: Workload, cluster: Cluster, allowed: Constraints) -> ParplanError:
    """Name the constraints of which none can be left out, and changes that leave a plan.

    The constraints leave none.
    """
    for name in allowed.given():
        fewer = allowed.without(name)
        if _is_empty(sizes_of(workload, cluster, fewer), fewer):
            allowed = fewer
    guilty = allowed.given()
    if not guilty:
        return _sizes_do_not_divide(workload, cluster, allowed)
    said = "; ".join(f"{name}: {text(values)}" for name, values in guilty.items())
    if len(guilty) > 1:
        said = f"no plan for {cluster.name} fulfils all of: {said}"
    changes = [
        f"{name} = true"
        for name in SWITCHES
        if not getattr(allowed, name) and _helps(workload, cluster, allowed, {name: True})
    ]
    if len(guilty) == 1 and not changes:
        (name,) = guilty
        return ParplanError(
            f"{said}; possible on {cluster.name}: {_possible(workload, cluster, allowed, name)}"
        )
    changes += [f"{name}: {_possible(workload, cluster, allowed, name)}" for name in guilty]
    return ParplanError(f"{said}; possible with {', or with '.join(changes)}")


def _is_empty(sizes: JobSizes, allowed: Constraints) -> bool:
    return next(groups(sizes, allowed), None) is None


def _helps(
    workload: Workload, cluster: Cluster, allowed: Constraints, values: dict[str, bool]
) -> bool:
    more = replace(allowed, **values)  # type: ignore[arg-type]
    return not _is_empty(sizes_of(workload, cluster, more), more)


def _possible(workload: Workload, cluster: Cluster, allowed: Constraints, name: str) -> str:
    """The values of a dimension that the other constraints leave."""
    relaxed = allowed.without(name)
    values = dict[object, None]()
    for group in groups(sizes_of(workload, cluster, relaxed), relaxed):
        if name in group.layout._fields:
            found: list[object] = [getattr(group.layout, name)]
        elif name in ("data_parallel", "num_micro_batches"):
            found = [getattr(group, name)]
        elif name == "stage_ends":
            found = [ordering.ends for ordering in group.orderings]
        elif name in ("schedule", "virtual_stages"):
            found = [getattr(ordering, name) for ordering in group.orderings]
        else:
            found = list(getattr(group, NAMES.get(name, name)))
        values.update(dict.fromkeys(found))
    ordered = sorted(values, key=lambda v: (isinstance(v, str), v if not isinstance(v, str) else 0))
    return text(ordered[:MOST_VALUES]) + (", ..." if len(ordered) > MOST_VALUES else "")


NAMES = {"recomputation": "recomputations", "zero_stage": "zero_stages"}
"""Fields of `LayoutGroup`, by the dimensions that they have the values of."""


def _sizes_do_not_divide(
    workload: Workload, cluster: Cluster, allowed: Constraints
) -> ParplanError:
    """Of which neither the constraints nor the model is the reason."""
    sizes = sizes_of(workload, cluster, allowed)
    batch, devices = sizes.global_batch, sizes.num_devices
    further = range(batch + 1, 2 * max(batch, devices) + 1)
    larger = _first_batch(sizes, allowed, further)
    smaller = _first_batch(sizes, allowed, range(batch - 1, 0, -1))
    fewer = _fewer_devices(sizes, allowed, devices // cluster.num_nodes)
    batches = " or ".join(str(n) for n in (smaller, larger) if n is not None)
    changes = [f"a global batch of {batches}"] if batches else []
    changes += [f"{fewer} accelerators"] if fewer is not None else []
    return ParplanError(
        f"global batch: {batch} sequences do not divide over {devices} accelerators in any plan of "
        f"{workload.model.name}; possible with {', or with '.join(changes)}"
    )


def _fewer_devices(sizes: JobSizes, allowed: Constraints, per_node: int) -> int | None:
    """The next number of devices below with which there is a plan: whole nodes, or part of one."""
    for count in range(sizes.num_devices - 1, 0, -1):
        if count < per_node or count % per_node == 0:
            degrees = tuple(t for t in sizes.tensor_degrees if count % t == 0)
            fewer = sizes._replace(num_devices=count, tensor_degrees=degrees)
            if not _is_empty(fewer, allowed):
                return count
    return None


def _first_batch(sizes: JobSizes, allowed: Constraints, values: range) -> int | None:
    """The first of some global batches with which there is a plan."""
    for value in values[:MOST_BATCHES]:
        if not _is_empty(sizes._replace(global_batch=value), allowed):
            return value
    return None
