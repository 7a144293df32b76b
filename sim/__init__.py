"""What is planned (`plan`, `workload`), what it costs, and what came of it (`run`).

The simulators are in `engine` (SimPy, the reference), `fast` and `cluster`.
"""
