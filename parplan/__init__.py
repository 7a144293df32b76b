"""Find the fastest parallel plan for training a large model, and check the prediction.

The names of `__all__` are the public interface, covered by semantic versioning together with
`parplan.planners.conformance`, the file formats and the command line; everything else may move.
Each is imported when it is first used, so that `import parplan` takes no time.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from parplan.errors import ParplanError as ParplanError
    from parplan.errors import RunFailedError as RunFailedError
    from parplan.experiments.api.inputs import cluster as cluster
    from parplan.experiments.api.inputs import model as model
    from parplan.experiments.api.planning import SearchResult as Result
    from parplan.experiments.api.planning import plan as plan
    from parplan.experiments.api.planning import register_planner as register_planner
    from parplan.experiments.api.running import calibrate as calibrate
    from parplan.experiments.api.running import execute as execute
    from parplan.experiments.api.simulation import SimulatedStep as Run
    from parplan.experiments.api.simulation import simulate as simulate
    from parplan.experiments.api.studies import export as export
    from parplan.experiments.api.studies import import_launch as import_launch
    from parplan.experiments.api.studies import landscape as landscape
    from parplan.experiments.api.studies import validate as validate
    from parplan.hardware.network.cluster import Cluster as Cluster
    from parplan.sim.models.model import Model as Model
    from parplan.sim.plan import Plan as Plan
    from parplan.sim.workload import Workload as Workload

    __version__: str

__all__ = [
    "Cluster",
    "Model",
    "ParplanError",
    "Plan",
    "Result",
    "Run",
    "RunFailedError",
    "Workload",
    "__version__",
    "calibrate",
    "cluster",
    "execute",
    "export",
    "import_launch",
    "landscape",
    "model",
    "plan",
    "register_planner",
    "simulate",
    "validate",
]

_FROM = {
    "Cluster": "parplan.hardware.network.cluster:Cluster",
    "Model": "parplan.sim.models.model:Model",
    "ParplanError": "parplan.errors:ParplanError",
    "Plan": "parplan.sim.plan:Plan",
    "Result": "parplan.experiments.api.planning:SearchResult",
    "Run": "parplan.experiments.api.simulation:SimulatedStep",
    "RunFailedError": "parplan.errors:RunFailedError",
    "Workload": "parplan.sim.workload:Workload",
    "calibrate": "parplan.experiments.api.running:calibrate",
    "cluster": "parplan.experiments.api.inputs:cluster",
    "execute": "parplan.experiments.api.running:execute",
    "export": "parplan.experiments.api.studies:export",
    "import_launch": "parplan.experiments.api.studies:import_launch",
    "landscape": "parplan.experiments.api.studies:landscape",
    "model": "parplan.experiments.api.inputs:model",
    "plan": "parplan.experiments.api.planning:plan",
    "register_planner": "parplan.experiments.api.planning:register_planner",
    "simulate": "parplan.experiments.api.simulation:simulate",
    "validate": "parplan.experiments.api.studies:validate",
}


def __getattr__(name: str) -> Any:
    """A public name, imported when it is first asked for (PEP 562)."""
    if name == "__version__":
        from importlib.metadata import version

        return version("parplan")
    if name not in _FROM:
        raise AttributeError(f"module 'parplan' has no attribute {name!r}")
    module, _, attribute = _FROM[name].partition(":")
    value = getattr(importlib.import_module(module), attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
