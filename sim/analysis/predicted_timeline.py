"""The timeline of a predicted step, with all that is known of its events."""

from typing import Any

from parplan.hardware.network.cluster import Cluster
from parplan.sim.analysis.streams import with_streams
from parplan.sim.analysis.timeline import chrome_trace
from parplan.sim.analysis.timeline_facts import facts_of
from parplan.sim.prediction.predict import CompiledPlan
from parplan.sim.run import Run
from parplan.sim.workload import Workload


def predicted_timeline(
    workload: Workload, cluster: Cluster, compiled: CompiledPlan, run: Run
) -> dict[str, Any]:
    """Chrome trace JSON of `run`, the result of simulating `compiled`."""
    detailed = with_streams(run, workload, cluster, compiled.plan)
    return chrome_trace({"predicted": detailed}, facts_of(workload, cluster, compiled, run))
