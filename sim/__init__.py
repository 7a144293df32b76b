"""Plans, workloads, costs and simulated runs.

The simulators are in `engine` (SimPy, the reference), `fast` and `cluster`.
"""
